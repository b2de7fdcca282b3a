"""The claims of the ledger, by where their data come from; ``CLAIMS`` is all of them, in the order of the ledger."""

from paper_figures.claims.appendix import APPENDIX_CLAIMS
from paper_figures.claims.dynamics import DYNAMICS
from paper_figures.claims.edge import EDGE, committed_degrees
from paper_figures.claims.insides import INSIDES
from paper_figures.claims.plane import PLANE
from paper_figures.claims.start import START, committed_flows, committed_growth
from paper_figures.claims.tables import TABLES, committed_tables

CLAIMS = (*PLANE, *DYNAMICS, *INSIDES, *TABLES, *EDGE, *START, *APPENDIX_CLAIMS)

__all__ = ["CLAIMS", "committed_degrees", "committed_flows", "committed_growth", "committed_tables"]
