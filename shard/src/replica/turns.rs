//! Who is asked to lead by a leader that cannot.

use crate::id::NodeId;

/// Whom a leader that cannot lead asks first to take over: another one each time, as that one may have no directory to lead with
/// either. Its own count, and nothing that replicas share: where two hand on to each other the term grows by one each time, and
/// each of them would always choose by the same parity.
#[derive(Debug, Default)]
pub(super) struct Turns(usize);

impl Turns {
    pub(super) fn order(&mut self, mut others: Vec<NodeId>) -> Vec<NodeId> {
        let count = others.len().max(1);
        others.rotate_left(self.0 % count);
        self.0 = self.0.wrapping_add(1);
        others
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_three_the_one_that_can_lead_is_soon_asked_first() {
        for starts in 0..4 {
            let mut turns = [Turns(starts / 2), Turns(starts % 2)];
            let mut leader = 0;
            let mut handed = 0;
            while leader != 2 {
                let others = (1..3).map(|step| NodeId((leader + step) % 3)).collect();
                let at = usize::try_from(leader).unwrap();
                leader = turns[at].order(others)[0].0;
                handed += 1;
                assert!(handed <= 4, "handed on in circles, begun with {starts}");
            }
        }
    }
}
