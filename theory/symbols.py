"""Every symbol of the theory, once, with its assumptions.

A symbol that is spelled in two places with two sets of assumptions is two symbols to SymPy, and nothing cancels; so
all expressions of this package are built from the names below and from no others.
"""

from __future__ import annotations

from sympy import Symbol

# --- the plane
gamma = Symbol("gamma", positive=True)  # feature-learning strength: the network's output is divided by it
eta = Symbol("eta", positive=True)  # learning rate, the same for each of the L weights
depth = Symbol("L", integer=True, positive=True)  # number of weight layers
steps = Symbol("T", positive=True)  # training budget in optimizer steps
level = Symbol("level", positive=True)  # fraction of the initial loss that counts as trained, in (0, 1)

# --- the network
w = Symbol("w", positive=True)  # common value of the weights on the balanced line
u = Symbol("u", positive=True)  # product of the weights, w**L on the balanced line
f = Symbol("f", real=True)  # centred, downscaled output (prod w - 1)/gamma
sharpness = Symbol("lambda", positive=True)  # largest eigenvalue of the loss Hessian
z = Symbol("z", real=True)  # weight in units of the minimiser, w/(1 + gamma)**(1/L)
C = Symbol("C", positive=True)  # (2/L) eta/eta_crit, the only parameter of the map of z
beta = Symbol("beta", positive=True)  # heavy-ball momentum, in (0, 1): v <- beta v + gradient
delta = Symbol("delta", positive=True)  # terminal error |f/f* - 1| that sign descent is allowed
target = Symbol("y", positive=True)  # output at the loss's minimum, 1 unless said otherwise
init_scale = Symbol("w_0", positive=True)  # initial value of every weight, 1 unless said otherwise

# --- time and integration variables
t = Symbol("t", nonnegative=True)  # time in optimizer steps
tau = Symbol("tau", nonnegative=True)  # rescaled time eta t/gamma
s = Symbol("s", positive=True)  # output, as integration variable, between 0 and f
v = Symbol("v", positive=True)  # product of the weights, as integration variable
x = Symbol("x", positive=True)  # ln((1 + gamma)/v): the integration variable of the numerical form
