"""Writing responses: files, versions, and the JSON shapes."""
