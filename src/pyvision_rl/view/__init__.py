"""The viewer: a run folder or a study as pages that a browser shows.

In: what runs leave behind. Out: data files, thumbnails and pages, served, exported or as one file
(docs/viewer.md). The pages themselves lie in ``web``. Changes nothing in a run folder but its
``notes.jsonl``.
"""

SCHEMA = 1
"""Version of the data files' form."""
