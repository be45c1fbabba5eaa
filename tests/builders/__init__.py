"""Small writers of dumps, for what no real dump shows.

They know the formats from their definitions, not from crashbeam's own tables: what they write checks those.
"""
