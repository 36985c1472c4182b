//! Which pictures are gone: every group has one until it is deleted.

use crate::id::Target;
use std::collections::{BTreeMap, HashMap};

/// The deleted pictures, oldest deletion forgotten first. A forgotten group has a picture again.
pub(super) struct Pictures {
    gone: HashMap<Target, u64>,
    order: BTreeMap<u64, Target>,
    deletions: u64,
    most: usize,
}

impl Pictures {
    /// All pictures are there; at most `most` can be gone at a time.
    pub(super) fn new(most: usize) -> Self {
        Self { gone: HashMap::new(), order: BTreeMap::new(), deletions: 0, most }
    }

    /// Whether the group has a picture.
    pub(super) fn has(&self, target: &Target) -> bool {
        !self.gone.contains_key(target)
    }

    /// Takes the picture down. Says whether there was one.
    pub(super) fn take_down(&mut self, target: &Target) -> bool {
        if !self.has(target) {
            return false;
        }
        self.deletions += 1;
        self.gone.insert(target.clone(), self.deletions);
        self.order.insert(self.deletions, target.clone());
        if self.gone.len() > self.most
            && let Some((_, oldest)) = self.order.pop_first()
        {
            self.gone.remove(&oldest);
        }
        true
    }

    /// Gives the group a picture.
    pub(super) fn set(&mut self, target: &Target) {
        if let Some(deletion) = self.gone.remove(target) {
            self.order.remove(&deletion);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::{GroupId, IdFault, SessionId};

    fn group(number: usize) -> Result<Target, IdFault> {
        Ok(Target { session: SessionId::parse("s1")?, group: GroupId::parse(&number.to_string())? })
    }

    #[test]
    fn a_picture_is_taken_down_once_until_it_is_set_again() -> Result<(), IdFault> {
        let mut pictures = Pictures::new(10);
        let target = group(1)?;
        assert!(pictures.has(&target) && pictures.take_down(&target));
        assert!(!pictures.has(&target) && !pictures.take_down(&target));
        pictures.set(&target);
        assert!(pictures.has(&target) && pictures.take_down(&target));
        Ok(())
    }

    #[test]
    fn the_oldest_deletion_is_forgotten_when_there_are_too_many() -> Result<(), IdFault> {
        let mut pictures = Pictures::new(3);
        for number in 0..100 {
            pictures.take_down(&group(number)?);
            if number % 2 == 0 {
                pictures.set(&group(number)?);
                pictures.take_down(&group(number)?);
            }
            assert!(pictures.gone.len() <= 3 && pictures.order.len() == pictures.gone.len());
        }
        let gone: Vec<bool> = (95..100).map(|number| Ok(!pictures.has(&group(number)?))).collect::<Result<_, _>>()?;
        assert_eq!(gone, [false, false, true, true, true]);
        Ok(())
    }
}
