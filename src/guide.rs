//! The user's guide, one page for each topic. The pages are the files of `src/guide/`, so they can be
//! read in the repository too.
//!
//! Start with [`quick_start`]. Whoever wants to change relance itself starts with [`architecture`].

/// One module for each page. The link targets come first: of two definitions Markdown takes the first, so that
/// here links lead to modules, and in the repository to the files that the pages name at their end.
macro_rules! pages {
    ($($page:ident = $file:literal,)*) => {
        $(
            #[doc = include_str!("guide/links.md")]
            #[doc = include_str!(concat!("guide/", $file))]
            #[allow(clippy::doc_markdown, reason = "prose, in which products keep their names")]
            pub mod $page {}
        )*
    };
}

pages! {
    quick_start = "quick_start.md",
    changes = "changes.md",
    casts = "casts.md",
    elsewhere = "elsewhere.md",
    strategies = "strategies.md",
    while_others_write = "while_others_write.md",
    going_back = "going_back.md",
    commands = "commands.md",
    json = "json.md",
    buckets = "buckets.md",
    clusters = "clusters.md",
    python = "python.md",
    speed_and_memory = "speed_and_memory.md",
    how_sure = "how_sure.md",
    architecture = "architecture.md",
}
