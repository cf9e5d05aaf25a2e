//! The order of versions, and what an image may be installed over.
//!
//! Vendors write versions in many ways, and a wrong guess takes a fleet back to an old release. So the rules are few, they
//! are written down in [`fettle_crds::version`], and what they do not cover has no order: the group says so, and a person
//! decides.
//!
//! It knows no lists of products or releases, and never looks at a file's name or date.

pub mod requirement;

pub use fettle_crds::version::{Version, compare};
pub use requirement::{Match, REQUIREMENT_PATTERN, Requirement, RequirementError};
