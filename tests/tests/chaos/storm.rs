//! What happens to Fettle while it works: its programs and the API server are killed, and start again.
//!
//! A blow falls when the devices have received so many commands, not after a time: it hits the same work on a slow machine.

use std::time::Instant;

use anyhow::{Context, Result, ensure};
use fettle_device::FleetHandle;
use fettle_device::record::Summary;
use fettle_tests::installation::Bridge;
use fettle_tests::{ControlPlane, Installation};
use futures::future::try_join_all;
use rand::RngExt as _;
use rand::rngs::StdRng;
use rand::seq::SliceRandom as _;

use crate::PATIENCE;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Victim {
    ApiServer,
    Controller,
    Bridge(usize),
}

/// Who is killed at the same time.
const BLOWS: [&[Victim]; 6] = [
    &[Victim::Controller],
    &[Victim::Bridge(0)],
    &[Victim::Bridge(1)],
    &[Victim::ApiServer],
    &[Victim::Controller, Victim::Bridge(0)],
    &[Victim::ApiServer, Victim::Controller, Victim::Bridge(0), Victim::Bridge(1)],
];

/// One blow.
#[derive(Debug, Clone)]
pub struct Blow {
    /// It falls when the devices have received so many commands.
    pub after_commands: u64,
    pub victims: &'static [Victim],
}

/// So many blows, the first in the first hundredth of that many commands, the others spread over nine tenths of them.
pub fn forecast(blows: usize, commands: u64, rng: &mut StdRng) -> Vec<Blow> {
    let mut kinds = BLOWS;
    kinds.shuffle(rng);
    let mut storm: Vec<Blow> = Vec::new();
    for (index, victims) in kinds.into_iter().cycle().take(blows).enumerate() {
        let after_commands = match index {
            0 => rng.random_range(1..=commands.div_ceil(100)),
            _ => rng.random_range(commands / 100..=commands * 9 / 10),
        };
        storm.push(Blow { after_commands, victims });
    }
    storm.sort_by_key(|blow| blow.after_commands);
    storm
}

/// How many commands devices were sent that are part of an upgrade.
pub fn commands(summary: &Summary) -> u64 {
    summary.counters.received(3) + summary.counters.received(6)
}

/// What is killed.
pub struct Target<'a> {
    pub began: Instant,
    pub control_plane: &'a ControlPlane,
    pub fettle: &'a Installation,
}

impl Target<'_> {
    /// Waits for the time of a blow, strikes, starts again what was struck, and returns when that is ready.
    pub async fn suffer(&self, blow: &Blow, fleet: &FleetHandle) -> Result<()> {
        let Blow { after_commands, victims } = blow;
        tokio::time::timeout(PATIENCE, fleet.wait_until(|summary| commands(summary) >= *after_commands))
            .await
            .with_context(|| format!("{after_commands} commands were not sent: {:?}", fleet.summary()))?;
        let (seconds, commands) = (self.began.elapsed().as_secs(), commands(&fleet.summary()));
        println!("{seconds:>4} s, {commands:>5} commands: killing {victims:?}");
        for victim in *victims {
            self.kill(*victim)?;
        }
        try_join_all(victims.iter().map(|victim| self.start(*victim))).await?;
        Ok(())
    }

    fn kill(&self, victim: Victim) -> Result<()> {
        match victim {
            Victim::ApiServer => return self.control_plane.stop_api_server(),
            Victim::Controller => self.fettle.controller().kill(),
            Victim::Bridge(ordinal) => self.fettle.bridges()[ordinal].program().kill(),
        }
        Ok(())
    }

    async fn start(&self, victim: Victim) -> Result<()> {
        match victim {
            Victim::ApiServer => self.control_plane.start_api_server().await,
            Victim::Controller => self.fettle.controller().start().await,
            Victim::Bridge(ordinal) => self.fettle.bridges()[ordinal].program().start().await,
        }
    }

    /// None of Fettle's programs gives up by itself, whatever happens to the others.
    pub fn all_run(&self) -> Result<()> {
        let bridges = self.fettle.bridges().iter().map(Bridge::program);
        for program in bridges.chain([self.fettle.controller()]) {
            ensure!(!program.has_ended(), "{} has ended by itself; see {}", program.name, program.log().display());
        }
        Ok(())
    }
}
