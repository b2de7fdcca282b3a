"""What the figures show, computed: trained through ensembles and probes, kept in a run directory, drawn elsewhere."""
