//! What the server does about one device: a state machine.
