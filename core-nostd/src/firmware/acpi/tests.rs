//! The image is taken apart again as a guest does it.
