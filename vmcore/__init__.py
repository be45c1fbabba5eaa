"""Bytes to facts about one crash. Pure: no Beam, no clock, no network but through a ByteSource."""
