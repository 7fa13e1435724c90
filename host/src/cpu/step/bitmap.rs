//! A set of positions that gives them back in ascending order.

/// One bit for each code.
#[derive(Debug)]
pub(super) struct Bitmap {
    words: Vec<u64>,
}

impl Bitmap {
    /// An empty set of numbers below `len`.
    pub(super) fn new(len: usize) -> Self {
        Bitmap {
            words: vec![0; len.div_ceil(64)],
        }
    }

    /// Adds `code`.
    #[inline]
    pub(super) fn insert(&mut self, code: u32) {
        self.words[code as usize / 64] |= 1 << (code % 64);
    }

    /// Moves the `count` smallest members of `self` to `to`, and forgets the others.
    pub(super) fn move_smallest(&mut self, mut count: usize, to: &mut Bitmap) {
        for (from, to) in self.words.iter_mut().zip(&mut to.words) {
            let mut left = std::mem::take(from);
            while left != 0 && count > 0 {
                *to |= left & left.wrapping_neg();
                left &= left - 1;
                count -= 1;
            }
        }
    }

    /// Takes the members out, ascending, into `to`, which is as long as there are members.
    pub(super) fn drain(&mut self, first_position: u32, to: &mut [i32]) {
        let mut to = to.iter_mut();
        for (i, word) in self.words.iter_mut().enumerate() {
            let mut left = std::mem::take(word);
            while left != 0 {
                let code = 64 * i as u32 + left.trailing_zeros();
                let to = to.next().expect("there is room for every member");
                *to = (first_position + code) as i32;
                left &= left - 1;
            }
        }
        debug_assert!(to.next().is_none());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(members: &[u32]) -> Bitmap {
        let mut set = Bitmap::new(200);
        members.iter().for_each(|&code| set.insert(code));
        set
    }

    fn drained(set: &mut Bitmap, len: usize) -> Vec<i32> {
        let mut out = vec![-1; len];
        set.drain(1000, &mut out);
        out
    }

    #[test]
    fn members_come_ascending_and_leave() {
        let mut all = set(&[199, 63, 0, 64, 128, 63]);
        assert_eq!(drained(&mut all, 5), [1000, 1063, 1064, 1128, 1199]);
        assert!(drained(&mut all, 0).is_empty());
    }

    #[test]
    fn the_smallest_move_and_the_others_are_forgotten() {
        for (count, expected) in [
            (0, vec![1007]),
            (1, vec![1001, 1007]),
            (3, vec![1001, 1002, 1007, 1065]),
            (9, vec![1001, 1002, 1007, 1065, 1130]),
        ] {
            let (mut from, mut to) = (set(&[130, 2, 65, 1]), set(&[7]));
            from.move_smallest(count, &mut to);
            assert_eq!(drained(&mut to, expected.len()), expected);
            assert!(drained(&mut from, 0).is_empty());
        }
    }
}
