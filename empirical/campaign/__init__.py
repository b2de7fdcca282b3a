"""Campaigns: the boundaries of many architectures, one file that says which, one command that measures them."""

from empirical.campaign.degree import DegreeCells, Prediction
from empirical.campaign.run import CampaignResult, UnitResult, run_campaign
from empirical.campaign.schema import Campaign, Entry, Unit, load, parse
from empirical.campaign.tables import save

__all__ = [
    "Campaign",
    "CampaignResult",
    "DegreeCells",
    "Entry",
    "Prediction",
    "Unit",
    "UnitResult",
    "load",
    "parse",
    "run_campaign",
    "save",
]
