"""Short scripts to start from: copy one, change the model, and see what moves.

python -m theory.examples.change_the_loss      another convex loss: its eta_crit, checked by running the map
python -m theory.examples.weight_decay         one term more in the loss: new minimiser, new stability
python -m theory.examples.unbalanced_start     two weights that start apart: what is conserved, where it ends
"""
