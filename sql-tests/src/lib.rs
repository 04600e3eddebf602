//! SQL scripts, driver tests and consistency tests against real clusters.
