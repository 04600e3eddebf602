//! Bytes that are not the protocol, on either side.
