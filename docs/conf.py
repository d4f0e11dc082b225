"""The documents' settings: python -m sphinx -W docs docs/_build"""

import zdlfast

project = "zdlfast"
author = "The zdlfast developers"
release = version = zdlfast.__version__

extensions = ["myst_parser", "numpydoc", "sphinx.ext.autodoc", "sphinx.ext.autosummary"]
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = f"zdlfast {release}"

autodoc_member_order = "bysource"
autodoc_typehints = "none"  # the docstrings tell
numpydoc_show_class_members = False
numpydoc_xref_param_type = False
myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3
