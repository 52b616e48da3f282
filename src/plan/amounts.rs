//! Counts and bytes as people read them.

/// `1_500_000` as `1,500,000`.
pub(crate) fn count_text(count: u64) -> String {
    let digits = count.to_string();
    let mut out = String::new();
    for (position, digit) in digits.chars().enumerate() {
        if position > 0 && (digits.len() - position).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// `1 chunk`, `1,500 chunks`: so many of what `noun` calls one of.
pub(crate) fn counted(count: u64, noun: &str) -> String {
    let plural = match noun.strip_suffix("ex") {
        _ if count == 1 => noun.to_owned(),
        Some(stem) => format!("{stem}ices"),
        None => format!("{noun}s"),
    };
    format!("{} {plural}", count_text(count))
}

/// Bytes in binary units.
pub(crate) fn bytes_text(bytes: u64) -> String {
    const UNITS: &[&str] = &["KiB", "MiB", "GiB", "TiB", "PiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut scaled = bytes;
    let mut unit = "KiB";
    let mut rest = 0;
    for name in UNITS {
        unit = name;
        rest = scaled % 1024 * 10 / 1024;
        scaled /= 1024;
        if scaled < 1024 {
            break;
        }
    }
    format!("{scaled}.{rest} {unit}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_read_well() {
        assert_eq!(count_text(0), "0");
        assert_eq!(count_text(1_234_567), "1,234,567");
        assert_eq!(counted(1, "chunk"), "1 chunk");
        assert_eq!([counted(0, "index"), counted(1_500, "row")], ["0 indices", "1,500 rows"]);
        assert_eq!(bytes_text(1023), "1023 B");
        assert_eq!(bytes_text(1536), "1.5 KiB");
        assert_eq!(bytes_text(3 << 40), "3.0 TiB");
    }
}
