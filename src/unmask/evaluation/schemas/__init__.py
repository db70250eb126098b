"""Suite `schemas`: JSON Schemas of growing difficulty (`tasks`), decoded in every mode under a hard constraint and
without one (`suite`), and what the constraint's own work costs (`timing`).
"""
