"""The gate: finalists that were named beforehand are judged once on test rows."""
