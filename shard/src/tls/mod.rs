//! TLS: files of certificates and keys ([`pem`]), connections with it or without ([`Stream`]), and what nodes prove to
//! each other with it ([`NodeTls`]), by certificates of the cluster's own authority ([`Authority`]).

mod authority;
mod node;
pub mod pem;
mod stream;

pub use self::authority::{Authority, AuthorityError, Issued};
pub use self::node::{Files, NodeTls, node_name};
pub use self::pem::TlsError;
pub use self::stream::{Encrypted, Stream};
