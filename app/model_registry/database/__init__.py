"""PostgreSQL: a repository for each group of tables. A method runs a statement or two and never commits.

Start in `engine`: `Database` opens a `Transaction`, which has the repositories. May import `db_models`, `domain`,
`runtime`, `utils` and `errors`.
"""
