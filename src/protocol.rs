//! Topics and wire messages of Propeller. No I/O.
