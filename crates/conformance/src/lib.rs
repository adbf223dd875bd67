//! Tests with real mounts, real processes and real faults
