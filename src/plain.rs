//! Text of others, before it is shown.

/// Whether a character is not shown itself, but changes what is or hides in it: control characters, separators of lines,
/// marks of annotations, and what Unicode calls `Default_Ignorable_Code_Point`.
#[must_use]
pub fn is_invisible(c: char) -> bool {
    c.is_control() || is_ignorable(c) || matches!(c, '\u{2028}' | '\u{2029}' | '\u{fff9}'..='\u{fffb}')
}

/// Unicode's `Default_Ignorable_Code_Point` (`DerivedCoreProperties.txt`): marks that turn the direction of text, joiners,
/// fillers, variation selectors, tags.
fn is_ignorable(c: char) -> bool {
    matches!(c, '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}')
        || matches!(c, '\u{180b}'..='\u{180f}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}')
        || matches!(c, '\u{2060}'..='\u{206f}' | '\u{3164}' | '\u{fe00}'..='\u{fe0f}' | '\u{feff}' | '\u{ffa0}')
        || matches!(c, '\u{fff0}'..='\u{fff8}' | '\u{1bca0}'..='\u{1bca3}' | '\u{1d173}'..='\u{1d17a}')
        || matches!(c, '\u{e0000}'..='\u{e0fff}')
}

/// Whether a character only chooses between two looks of the one before it, of an emoji mostly.
#[must_use]
pub fn is_variation(c: char) -> bool {
    matches!(c, '\u{fe00}'..='\u{fe0f}')
}

#[cfg(test)]
mod tests {
    use super::is_invisible;

    #[test]
    fn what_could_mislead_a_reader_is_known_and_letters_are_not_touched() {
        assert!("\u{1b}\n\u{7f}\u{9b}\u{202e}\u{2066}\u{200b}\u{feff}".chars().all(is_invisible));
        for hidden in [
            "\u{e0001}\u{e0041}\u{e007f}\u{e0100}",
            "\u{fe00}\u{fe0f}\u{180b}\u{180c}\u{180d}\u{180e}\u{180f}\u{34f}",
            "\u{115f}\u{1160}\u{3164}\u{ffa0}\u{17b4}\u{17b5}\u{1bca0}\u{1d173}",
            "\u{fff0}\u{fff9}\u{fffa}\u{fffb}",
        ] {
            assert!(hidden.chars().all(is_invisible), "{}", hidden.escape_unicode());
        }
        assert!(!"\u{fffc}\u{fffd}\u{1100}\u{1161}\u{3131}\u{180a}\u{1f3fb}".chars().any(is_invisible));
        assert!(!"aé漢 _-@.\u{1f600}".chars().any(is_invisible));
    }
}
