//! The directories of two members, which hear statements of others in any order and not all of them: when they have
//! compared what they know, they are equal.
#![no_main]

use std::{
    sync::LazyLock,
    time::{Duration, Instant},
};

use libfuzzer_sys::{
    arbitrary::{self, Arbitrary},
    fuzz_target,
};
use libp2p::{PeerId, identity::Keypair};
use ping_core::cluster::{
    directory::{Change, Directory},
    record::{Obituary, Record, Stamp, Statement, Witness},
};

/// How many members speak.
const WRITERS: usize = 5;

/// The most steps of one input.
const MAX_STEPS: usize = 60;

/// How often two directories compare at most. Each time, what is heard can make more of it believed.
const MAX_ROUNDS: usize = WRITERS + 2;

#[derive(Arbitrary, Debug)]
enum Step<'a> {
    Write { by: u8, leaves: bool, witnesses: [u8; 2], to: To },
    Restart { by: u8 },
    Accuse { by: u8, of: u8, version: u8, to: To },
    Raw { bytes: &'a [u8], to: To },
    Tick { milliseconds: u16 },
}

#[derive(Arbitrary, Clone, Copy, Debug)]
enum To {
    Left,
    Right,
    Both,
}

static KEYS: LazyLock<Vec<Keypair>> = LazyLock::new(|| {
    (0..WRITERS + 2).map(|number| Keypair::ed25519_from_bytes([number as u8; 32]).expect("32 bytes")).collect()
});

fn peer(number: usize) -> PeerId {
    KEYS[number].public().to_peer_id()
}

fn writer(number: u8) -> usize {
    usize::from(number) % WRITERS
}

/// Whom the directories differ about.
fn differing(left: &Directory, right: &Directory) -> Vec<u8> {
    let pairs = left.digests().iter().zip(right.digests()).enumerate();
    pairs.filter(|(_, (left, right))| left != right).map(|(number, _)| number as u8).collect()
}

/// Tells one directory what the other knows more.
fn tell(from: &Directory, to: &mut Directory, now: Instant) {
    let buckets = differing(from, to);
    let difference = to.compare(&buckets, &from.summary(&buckets));
    assert!(difference.news.iter().all(|bytes| Statement::read(bytes).is_ok()), "what is passed on was sound");
    from.statements(&difference.wanted).for_each(|bytes| _ = to.hear(&bytes, now));
}

fuzz_target!(|steps: Vec<Step<'_>>| {
    let (mut left, mut right) = (Directory::new(peer(WRITERS)), Directory::new(peer(WRITERS + 1)));
    let mut now = Instant::now();
    let mut records = vec![Record::default(); WRITERS];
    let hear = |left: &mut Directory, right: &mut Directory, to: To, bytes: &[u8], now: Instant| {
        if matches!(to, To::Left | To::Both) {
            let _ = left.hear(bytes, now);
        }
        if matches!(to, To::Right | To::Both) {
            let _ = right.hear(bytes, now);
        }
    };
    for step in steps.into_iter().take(MAX_STEPS) {
        match step {
            Step::Write { by, leaves, witnesses, to } => {
                let record = &mut records[writer(by)];
                record.stamp.version += 1;
                record.is_leaving = leaves;
                record.witnesses = witnesses.map(|number| Witness::from(&peer(writer(number)))).into();
                let bytes = Statement::Record(record.clone()).sign(&KEYS[writer(by)]).expect("it signs");
                hear(&mut left, &mut right, to, &bytes, now);
            }
            Step::Restart { by } => {
                let record = &mut records[writer(by)];
                record.stamp = Stamp { epoch: record.stamp.epoch + 1, version: 0 };
                record.instance += 1;
            }
            Step::Accuse { by, of, version, to } if writer(by) != writer(of) => {
                let Stamp { epoch, version: last } = records[writer(of)].stamp;
                let stamp = Stamp { epoch, version: last.saturating_sub(u64::from(version % 3)) };
                let obituary = Statement::Obituary(Obituary { subject: peer(writer(of)), stamp });
                hear(&mut left, &mut right, to, &obituary.sign(&KEYS[writer(by)]).expect("it signs"), now);
            }
            Step::Accuse { .. } => {}
            Step::Raw { bytes, to } => hear(&mut left, &mut right, to, bytes, now),
            Step::Tick { milliseconds } => {
                now += Duration::from_millis(milliseconds.into());
                left.tick(now);
                right.tick(now);
            }
        }
    }
    // Refuted accusers are heard again, and every record is taken.
    now += Duration::from_secs(3600);
    left.tick(now);
    right.tick(now);
    // Everyone who is there writes once more, as those do who are accused.
    for (number, record) in records.iter_mut().enumerate().filter(|(_, record)| !record.is_leaving) {
        record.stamp.version += 1;
        let bytes = Statement::Record(record.clone()).sign(&KEYS[number]).expect("it signs");
        hear(&mut left, &mut right, if number % 2 == 0 { To::Left } else { To::Right }, &bytes, now);
    }
    for _ in 0..MAX_ROUNDS {
        tell(&left, &mut right, now);
        tell(&right, &mut left, now);
    }
    assert_eq!(differing(&left, &right), []);
    for directory in [&mut left, &mut right] {
        directory.tick(now + Duration::from_secs(60));
        let changes = directory.take_changes();
        assert!(
            !changes.iter().any(|change| matches!(change, Change::Refute(_))),
            "nobody speaks of them: {changes:?}"
        );
        for (peer, member) in directory.members() {
            assert_eq!(member.is_gone, member.record.is_leaving, "{peer} is there");
        }
    }
});
