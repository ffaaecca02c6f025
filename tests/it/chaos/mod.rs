//! Durability under faults, from outside: real processes, real sockets, real kills.

mod disk_full;
mod faults;
mod hang_ups;
mod history;
mod load;
mod lost;
mod nginx;
mod nodes;
mod polls;
mod rolling;
mod shutdown;
mod torture;
