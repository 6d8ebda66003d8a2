"""Where metadata and bytes are kept: one repository module per aggregate, and the object store."""
