"""PostgreSQL: the engine, and a repository for each group of tables. A method is a statement or two and never
commits.
"""
