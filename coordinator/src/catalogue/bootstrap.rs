//! Installs schema `howdah` in a database of a group.
