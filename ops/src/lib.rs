//! The howdah binary: node, demo, status.
