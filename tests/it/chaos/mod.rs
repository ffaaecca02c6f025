//! Durability under faults, from outside: real processes, real sockets, real kills.

mod faults;
mod hang_ups;
mod history;
mod load;
mod lost;
mod nodes;
mod polls;
mod rolling;
mod shutdown;
mod torture;
