"""Files of other programs: what opens, and whether the counts are right."""
