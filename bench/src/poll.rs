//! epoll: edge-triggered, with timeouts finer than a millisecond.

use std::io;
use std::net::ToSocketAddrs;
use std::num::NonZeroU64;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::time::Timespec;

/// Events that one wait returns at most.
const MAX_EVENTS: usize = 1024;

/// How late the kernel may wake this thread, in nanoseconds; the default of 50,000 would be seen in latencies.
const TIMER_SLACK_NS: NonZeroU64 = NonZeroU64::MIN;

pub struct Poll {
    epoll: OwnedFd,
    events: Vec<Event>,
}

impl Poll {
    pub fn new() -> Result<Poll, String> {
        // Without it latencies are a little worse, nothing else.
        let _ = rustix::thread::set_current_timer_slack(Some(TIMER_SLACK_NS));
        let epoll = epoll::create(CreateFlags::CLOEXEC).map_err(|error| format!("creating an epoll: {error}"))?;
        Ok(Poll { epoll, events: Vec::with_capacity(MAX_EVENTS) })
    }

    /// Watches a socket for both directions, reporting each change once.
    pub fn add(&self, socket: &impl AsFd, token: u64) -> io::Result<()> {
        let flags = EventFlags::IN | EventFlags::OUT | EventFlags::RDHUP | EventFlags::ET;
        Ok(epoll::add(&self.epoll, socket, EventData::new_u64(token), flags)?)
    }

    /// Watches a listening socket as long as somebody waits to be accepted.
    pub fn add_listener(&self, socket: &impl AsFd, token: u64) -> io::Result<()> {
        Ok(epoll::add(&self.epoll, socket, EventData::new_u64(token), EventFlags::IN)?)
    }

    /// Waits at most `timeout`, appends the tokens of sockets with news. A signal ends the wait early.
    pub fn wait(&mut self, timeout: Duration, tokens: &mut Vec<u64>) -> Result<(), String> {
        let timeout = Timespec { tv_sec: timeout.as_secs() as i64, tv_nsec: i64::from(timeout.subsec_nanos()) };
        self.events.clear();
        match epoll::wait(&self.epoll, spare_capacity(&mut self.events), Some(&timeout)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(format!("waiting for sockets: {error}")),
        }
        tokens.extend(self.events.iter().map(|event| event.data.u64()));
        Ok(())
    }
}

/// The first address of `host:port`.
pub fn resolve(address: &str) -> Result<std::net::SocketAddr, String> {
    let mut found = address.to_socket_addrs().map_err(|error| format!("looking up {address}: {error}"))?;
    found.next().ok_or_else(|| format!("{address} has no address"))
}
