"""The generated parts of the documentation site.

`make docs` runs `hooks`. Pages contain markers, `<!-- generated: NAME -->`; each is replaced by the
text of one of these modules. Generated text is not committed.
"""
