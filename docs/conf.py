"""Sphinx builds the documentation from here: ``nox -s docs``."""

import sys
from importlib.metadata import version as installed_version
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "_ext"))

project = "zlpr"
author = "The zlpr developers"
copyright = "the zlpr developers, Apache-2.0"
version = release = installed_version("zlpr")

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinxcontrib.katex",
    "contents",  # docs/_ext
    "public_names",
]
exclude_patterns = ["_build"]
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3

default_role = "code"  # zlpr_tf writes `names` as Keras does
nitpicky = True
nitpick_ignore_regex = [("py:(class|data|exc|obj)", ".*")]  # types of the frameworks, which are not documented here
autodoc_typehints_format = "short"
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 88
napoleon_custom_sections = ["Shape", "Call", ("Reference", "References")]

html_theme = "furo"
html_title = "zlpr"
html_static_path: list[str] = []
# KaTeX writes MathML, which browsers draw themselves: no style sheet and no fonts from another site
katex_options = r'output: "mathml", macros: {"\\log": "\\kern.2em\\operatorname{log}"}'  # MathML sets 2 log as 2log
katex_css_path = "katex-math.css"
