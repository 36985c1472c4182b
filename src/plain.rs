//! Text of others, before it is shown.

/// Whether a character is not shown itself, but changes what is: control characters, and those that turn the direction
/// of the text around them or hide in it.
#[must_use]
pub fn is_invisible(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}')
        || matches!(c, '\u{2060}'..='\u{206f}' | '\u{feff}')
}

#[cfg(test)]
mod tests {
    use super::is_invisible;

    #[test]
    fn what_could_mislead_a_reader_is_known_and_letters_are_not_touched() {
        assert!("\u{1b}\n\u{7f}\u{9b}\u{202e}\u{2066}\u{200b}\u{feff}".chars().all(is_invisible));
        assert!(!"aé漢 _-@.\u{1f600}".chars().any(is_invisible));
    }
}
