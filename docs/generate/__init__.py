"""The generated parts of the documentation site.

`mkdocs.yml` names `hooks`, which `make docs` runs. The pages in `docs/reference` contain markers,
`<!-- generated: NAME -->`; each is replaced by the text that one of these modules makes. Nothing
that is generated is committed.
"""
