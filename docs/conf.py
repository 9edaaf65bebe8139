# SPDX-License-Identifier: BSD-3-Clause
"""Settings of Sphinx. Building needs no network; `make docs` writes the tables first (make_tables.py)."""

import sklearn_iqa

project = "sklearn-iqa"
author = "the sklearn-iqa developers"
copyright = author
release = version = sklearn_iqa.__version__

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.mathjax",
    "sphinx.ext.viewcode",
    "numpydoc",
    "sphinx_gallery.gen_gallery",
]
templates_path = ["_templates"]
exclude_patterns = ["_build", "_templates", "api_members.rst", "changes"]
default_role = "code"  # `name` in a docstring is code, as in Markdown

# One page for each public name, generated/sklearn_iqa.<Name>.html: the estimators' HTML representation links there.
autosummary_generate = ["api_members.rst"]
autodoc_member_order = "bysource"
autodoc_typehints = "none"  # the docstrings give types, with shapes and ranges
numpydoc_show_class_members = False  # the template lists them
# The same rules as in tests/test_architecture.py: sections in order, every parameter and result documented.
# Fields and inherited methods of a named tuple carry docstrings that Python writes.
numpydoc_validation_exclude = {r"degradations\.Step\.\w+$"}
numpydoc_validation_checks = {
    *("GL03", "GL05", "GL06", "GL07", "GL08", "GL09", "GL10"),
    *("SS01", "SS02", "SS03", "SS04"),
    *("PR01", "PR02", "PR03", "PR05", "PR06", "PR07", "PR09", "PR10"),
    *("RT01", "RT03", "RT05", "YD01", "SA02"),
}

sphinx_gallery_conf = {
    "examples_dirs": "../examples",
    "gallery_dirs": "auto_examples",
    "filename_pattern": "/plot_",
    "ignore_pattern": "^(?!plot_)",  # demo.py is a program, not a page
    "within_subsection_order": "FileNameSortKey",
    "doc_module": ("sklearn_iqa",),
    "backreferences_dir": "generated/backreferences",
    "reference_url": {"sklearn_iqa": None},
    "abort_on_example_error": True,
    "download_all_examples": False,
    "show_signature": False,
}

html_theme = "pydata_sphinx_theme"
html_title = f"sklearn-iqa {release}"
html_static_path = ["_static"]
html_css_files = ["tables.css"]
html_theme_options = {
    "logo": {"text": "sklearn-iqa"},
    "show_toc_level": 2,
    "navigation_with_keys": False,
    "footer_start": ["copyright"],
    "footer_end": [],
}
html_show_sourcelink = False


def skip_inherited(app, what, name, member, skip, options):
    """Leave out what is not ours: methods of scikit-learn, whose docstrings refer to pages that are not here, and the
    classes of torch and skorch that estimators name as attributes.
    """
    package = (getattr(member, "__module__", None) or "").partition(".")[0]
    return True if package in ("sklearn", "skorch", "torch") else None


def setup(app):
    """Connect the handler."""
    app.connect("autodoc-skip-member", skip_inherited)
