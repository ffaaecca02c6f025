//! Where the messages of one send are: runs of numbers in lanes, in the order of the messages. Kept
//! with a deduplication key, so that a send that comes again is answered as the first time.
//!
//! ```text
//! answer = version (1), run*
//! run    = lane (8), first (8), salt (4), count (4)
//! ```

use bytes::{Buf as _, BufMut as _};

use crate::domain::lane::{LaneId, Position};
use crate::domain::{Error, Result};

const VERSION: u8 = 1;

/// Messages with consecutive numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Run {
    pub(super) lane: LaneId,
    pub(super) first: i64,
    pub(super) salt: u32,
    pub(super) count: u32,
}

impl Run {
    pub(super) fn positions(&self) -> impl Iterator<Item = Position> + use<> {
        let Self {
            lane,
            first,
            salt,
            count,
        } = *self;
        (first..first + i64::from(count)).map(move |seq| Position { lane, seq, salt })
    }
}

pub(super) fn write(runs: &[Run]) -> Vec<u8> {
    let mut answer = vec![VERSION];
    for run in runs {
        answer.put_i64(run.lane.raw());
        answer.put_i64(run.first);
        answer.put_u32(run.salt);
        answer.put_u32(run.count);
    }
    answer
}

/// # Errors
/// [`Error::Internal`] for what [`write`] did not write.
pub(super) fn read(mut answer: &[u8]) -> Result<Vec<Run>> {
    let mut parse = || {
        (answer.try_get_u8().ok()? == VERSION).then_some(())?;
        let mut runs = Vec::new();
        while !answer.is_empty() {
            runs.push(Run {
                lane: LaneId::from_raw(answer.try_get_i64().ok()?)?,
                first: answer.try_get_i64().ok()?,
                salt: answer.try_get_u32().ok()?,
                count: answer.try_get_u32().ok()?,
            });
        }
        Some(runs)
    };
    parse().ok_or_else(|| Error::internal("the answer kept with a deduplication key is unreadable"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::lane::{Class, QueueId, Writer};

    #[test]
    fn an_answer_is_read_as_it_was_written_or_not_at_all() {
        let lane = |class| LaneId::new(QueueId::new(7).unwrap(), class, Writer(3));
        let run = |class, first, count| Run {
            lane: lane(class),
            first,
            salt: 9,
            count,
        };
        let runs = [run(Class::READY, 5, 2), run(Class::DELAYED, 0, 1)];
        let written = write(&runs);
        assert_eq!(read(&written).unwrap(), runs);
        assert!(read(&written[..written.len() - 1]).is_err());
        assert!(read(&[]).is_err());
        assert!(read(&[2]).is_err());
        let seqs: Vec<i64> = runs[0].positions().map(|position| position.seq).collect();
        assert_eq!(seqs, [5, 6]);
    }
}
