"""The discrete maps, compiled: losses, one step, early exits, certificates, noise, unequal weights."""
