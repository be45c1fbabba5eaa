"""The limited child processes that hold open dumps, and the pool that keeps them busy. No Beam."""
