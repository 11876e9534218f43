//! A walk over LMDB's pages with plain reads, before LMDB follows a pointer through its map.
//!
//! LMDB trusts its file: a wrong page number, node offset or free list makes it read outside the
//! map, which is a signal, or take one page for another, which is a wrong answer. So each page of
//! the trees that a snapshot can reach is read once and checked, in O(tree pages): the values on
//! overflow pages are not read (their checksums are, later), only the headers are.
//!
//! The format is that of LMDB 0.9 on 64 bits, numbers in host byte order:
//!
//! ```text
//! page   0 number u64 │ 8 pad u16 │ 10 flags u16 │ 12 lower u16, 14 upper u16 (overflow: pages u32)
//!        16 node offsets u16 ... (lower) free (upper) ... nodes
//! node   0 size or child, low u32 │ 4 flags, or child's top u16 │ 6 key size u16 │ 8 key │ value
//! meta   16 magic u32 │ 20 version u32 │ 24 address │ 32 map size u64 │ 40 free db │ 88 main db
//!        136 last page u64 │ 144 transaction u64
//! db     0 pad u32 (free: page size) │ 4 flags u16 │ 6 depth u16 │ 8 branch, leaf, overflow pages
//!        u64 each │ 32 entries u64 │ 40 root u64
//! ```

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::corrupt;
use super::files::{io_error, open_regular};
use crate::Result;

const MAGIC: u32 = 0xBEEF_C0DE;
const VERSION: u32 = 1;
const HEADER_BYTES: usize = 16;
const NODE_BYTES: usize = 8;
const META_END: usize = 152;
const DB_BYTES: usize = 48;
/// LMDB's cursors hold so many pages.
const MAX_DEPTH: u16 = 32;
/// Half of the address space of a process on 64 bits: no map is larger.
pub(super) const MAX_MAP_BYTES: u64 = 1 << 46;
/// LMDB's bound on keys.
const MAX_KEY_BYTES: usize = 511;
/// The root of an empty tree.
const NO_PAGE: u64 = u64::MAX;
/// A busy writer overwrites a meta page every few hundred microseconds; a read takes a few.
const META_TRIES: u32 = 100;

const BRANCH: u16 = 0x01;
const LEAF: u16 = 0x02;
const OVERFLOW: u16 = 0x04;
const META: u16 = 0x08;

const NODE_BIG: u16 = 0x01;
const NODE_TREE: u16 = 0x02;

/// The free list's database has integer keys; its flags field holds the environment's too.
const INTEGER_KEY: u16 = 0x08;

/// What a walk found, besides damage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Walk {
    Sound,
    /// The writer has recycled the snapshot's meta page: begin a new snapshot.
    Overtaken,
}

/// The data file, read with plain reads.
#[derive(Debug)]
pub(super) struct DataFile {
    file: File,
    path: PathBuf,
    length: u64,
}

/// Both meta pages.
#[derive(Debug)]
pub(super) struct Metas([Meta; 2]);

impl Metas {
    /// The newest transaction.
    pub(super) fn transaction(&self) -> u64 {
        let Metas([first, second]) = self;
        first.transaction.max(second.transaction)
    }

    /// The largest map that a writer has used.
    pub(super) fn map_size_bytes(&self) -> u64 {
        let Metas([first, second]) = self;
        first.map_size.max(second.map_size)
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Meta {
    map_size: u64,
    page_size: u64,
    free: Tree,
    main: Tree,
    last_page: u64,
    transaction: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Tree {
    flags: u16,
    depth: u16,
    branch_pages: u64,
    leaf_pages: u64,
    overflow_pages: u64,
    entries: u64,
    root: u64,
}

/// What is wrong, without the file's name.
type Check<T> = std::result::Result<T, String>;

impl DataFile {
    pub(super) fn open(path: &Path) -> Result<Self> {
        let file = open_regular(OpenOptions::new().read(true), path).map_err(|error| {
            if error.kind() == std::io::ErrorKind::NotFound {
                corrupt(format!("the data file {} is missing; restore a backup", path.display()))
            } else {
                io_error("open", path, &error)
            }
        })?;
        let length = file.metadata().map_err(|error| io_error("measure", path, &error))?.len();
        Ok(Self { file, path: path.to_owned(), length })
    }

    /// Reads and checks both meta pages, as LMDB does before it maps the file, and more.
    pub(super) fn metas(&self) -> Result<Metas> {
        let metas = self.read_metas().map_err(|reason| self.damaged(&reason))?;
        Ok(metas)
    }

    /// Walks the trees of the snapshot that `transaction` made. The caller pins it.
    pub(super) fn check_tree(&self, transaction: u64) -> Result<Walk> {
        // The writer may have grown the file since.
        let length =
            self.file.metadata().map_err(|error| io_error("measure", &self.path, &error))?.len();
        let Metas([even, odd]) = self.metas()?;
        let meta = if transaction & 1 == 0 { even } else { odd };
        if meta.transaction != transaction {
            return Ok(Walk::Overtaken);
        }
        let outcome = Walker::new(&self.file, length, &meta).and_then(|mut walker| walker.run());
        let Err(reason) = outcome else { return Ok(Walk::Sound) };
        // Was it damage, or a meta page torn by a commit while we read it?
        let Metas([even, odd]) = self.metas()?;
        if meta != (if transaction & 1 == 0 { even } else { odd }) {
            return Ok(Walk::Overtaken);
        }
        Err(self.damaged(&reason))
    }

    fn damaged(&self, reason: &str) -> crate::Error {
        corrupt(format!("{} is damaged: {reason}; restore a backup", self.path.display()))
    }

    /// Reads both meta pages. A writer may commit between the two reads, or during one: what looks
    /// wrong is damage only if it stays so.
    fn read_metas(&self) -> Check<Metas> {
        let mut outcome = self.read_metas_once();
        for _ in 0..META_TRIES {
            if outcome.is_ok() {
                break;
            }
            std::thread::yield_now();
            outcome = self.read_metas_once();
        }
        outcome
    }

    fn read_metas_once(&self) -> Check<Metas> {
        if self.length == 0 {
            return Err("it is empty (0 bytes)".to_owned());
        }
        let first = self.read_meta(0, 0)?;
        let second = self.read_meta(1, first.page_size)?;
        if second.page_size != first.page_size {
            return Err(format!(
                "its meta pages name page sizes of {} and {} bytes",
                first.page_size, second.page_size
            ));
        }
        let (newer, older) = if first.transaction > second.transaction {
            (&first, &second)
        } else {
            (&second, &first)
        };
        // Transaction n is written to meta page n mod 2, so the two are neighbours.
        let started = newer.transaction <= 1 && older.transaction == 0;
        if !started && newer.transaction != older.transaction.wrapping_add(1) {
            return Err(format!(
                "its meta pages hold transactions {} and {}, which do not follow one another",
                first.transaction, second.transaction
            ));
        }
        Ok(Metas([first, second]))
    }

    fn read_meta(&self, number: u64, page_size: u64) -> Check<Meta> {
        let mut page = [0; META_END];
        self.file.read_exact_at(&mut page, number * page_size).map_err(|error| {
            format!("meta page {number} cannot be read from {} bytes: {error}", self.length)
        })?;
        if u64_at(&page, 0)? != number || u16_at(&page, 10)? != META {
            return Err(format!("page {number} is not a meta page"));
        }
        let (magic, version) = (u32_at(&page, 16)?, u32_at(&page, 20)?);
        if magic != MAGIC || version != VERSION {
            return Err(format!(
                "meta page {number} has magic {magic:#x} and version {version} instead of \
                 {MAGIC:#x} and {VERSION}"
            ));
        }
        let meta = Meta {
            map_size: u64_at(&page, 32)?,
            page_size: u64::from(u32_at(&page, 40)?),
            free: tree_at(&page, 40)?,
            main: tree_at(&page, 88)?,
            last_page: u64_at(&page, 136)?,
            transaction: u64_at(&page, 144)?,
        };
        if !meta.page_size.is_power_of_two() || !(512..=32768).contains(&meta.page_size) {
            return Err(format!("meta page {number} names pages of {} bytes", meta.page_size));
        }
        if meta.transaction != 0 && meta.transaction & 1 != number {
            return Err(format!("meta page {number} holds transaction {}", meta.transaction));
        }
        if self.length < 2 * meta.page_size {
            return Err(format!("it ends after {} bytes, within the meta pages", self.length));
        }
        // The last pages may be free and never have been written, but they lie within the map.
        let end = meta.last_page.checked_add(1).and_then(|pages| pages.checked_mul(meta.page_size));
        let plausible =
            meta.map_size.is_multiple_of(meta.page_size) && meta.map_size <= MAX_MAP_BYTES;
        match end {
            Some(end) if plausible && end <= meta.map_size && meta.last_page >= 1 => Ok(meta),
            _ => Err(format!(
                "meta page {number} names {} as the last page in a map of {} bytes",
                meta.last_page, meta.map_size
            )),
        }
    }
}

/// Counts of one tree, to compare with what its root record says.
#[derive(Default)]
struct Counts {
    branch_pages: u64,
    leaf_pages: u64,
    overflow_pages: u64,
    entries: u64,
}

/// Which tree a page belongs to: what its leaves may hold differs.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Transaction -> list of free pages.
    Free,
    /// Name -> root of a named database.
    Main,
    /// Key -> value.
    Named,
}

struct Walker<'a> {
    file: &'a File,
    /// Whole pages in the file.
    file_pages: u64,
    page_size: usize,
    meta: &'a Meta,
    /// One bit a page of the file: used by a tree or listed as free.
    seen: Vec<u64>,
    /// Roots of the named databases.
    named: Vec<(String, Tree)>,
}

impl<'a> Walker<'a> {
    fn new(file: &'a File, length: u64, meta: &'a Meta) -> Check<Self> {
        let file_pages = length / meta.page_size;
        let words = usize::try_from(file_pages.div_ceil(64)).map_err(|_| "it is too long")?;
        let page_size = usize::try_from(meta.page_size).map_err(|_| "its pages are too long")?;
        let mut seen = vec![0; words];
        if let Some(first) = seen.first_mut() {
            *first = 0b11; // the meta pages
        }
        Ok(Self { file, file_pages, page_size, meta, seen, named: Vec::new() })
    }

    fn run(&mut self) -> Check<()> {
        let meta = self.meta;
        if meta.free.flags & 0xF != INTEGER_KEY {
            return Err(format!("the free list has flags {:#x}", meta.free.flags));
        }
        self.tree("the free list", &meta.free, Kind::Free)?;
        self.tree("the main database", &meta.main, Kind::Main)?;
        for (name, tree) in std::mem::take(&mut self.named) {
            self.tree(&format!("database {name:?}"), &tree, Kind::Named)?;
        }
        Ok(())
    }

    fn tree(&mut self, what: &str, tree: &Tree, kind: Kind) -> Check<()> {
        if kind != Kind::Free && tree.flags != 0 {
            return Err(format!("{what} has flags {:#x}", tree.flags));
        }
        if tree.depth > MAX_DEPTH || (tree.root == NO_PAGE) != (tree.depth == 0) {
            return Err(format!("{what} has depth {} and root page {}", tree.depth, tree.root));
        }
        let mut counts = Counts::default();
        if tree.root != NO_PAGE {
            let bounds = (None, None);
            self.page(tree.root, tree.depth, kind, bounds, &mut counts)
                .map_err(|reason| format!("{what}: {reason}"))?;
        }
        for (pages, found, said) in [
            ("branch pages", counts.branch_pages, tree.branch_pages),
            ("leaf pages", counts.leaf_pages, tree.leaf_pages),
            ("overflow pages", counts.overflow_pages, tree.overflow_pages),
            ("entries", counts.entries, tree.entries),
        ] {
            if found != said {
                return Err(format!("{what} has {found} {pages}, but its root says {said}"));
            }
        }
        Ok(())
    }

    /// Marks a page as used; each page has one place only.
    fn mark(&mut self, number: u64) -> Check<()> {
        let (word, bit) = ((number / 64) as usize, 1 << (number % 64));
        match self.seen.get_mut(word) {
            Some(bits) if number < self.file_pages && *bits & bit == 0 => {
                *bits |= bit;
                Ok(())
            }
            Some(_) if number < self.file_pages => {
                Err(format!("page {number} is used in two places"))
            }
            _ => Err(format!(
                "page {number} lies after the end of the file of {} pages",
                self.file_pages
            )),
        }
    }

    fn in_range(&self, first: u64, pages: u64) -> Check<()> {
        match first.checked_add(pages) {
            Some(end) if first >= 2 && pages >= 1 && end - 1 <= self.meta.last_page => Ok(()),
            _ => Err(format!(
                "page {first} (of {pages}) lies outside pages 2 to {}",
                self.meta.last_page
            )),
        }
    }

    /// Checks a page of a tree and what hangs below it, with keys within `bounds`.
    fn page(
        &mut self,
        number: u64,
        depth: u16,
        kind: Kind,
        bounds: (Option<&[u8]>, Option<&[u8]>),
        counts: &mut Counts,
    ) -> Check<()> {
        self.in_range(number, 1)?;
        self.mark(number)?;
        let mut bytes = vec![0; self.page_size];
        self.file
            .read_exact_at(&mut bytes, number * self.meta.page_size)
            .map_err(|error| format!("page {number} cannot be read: {error}"))?;
        let page = Page::parse(number, &bytes, if depth > 1 { BRANCH } else { LEAF })?;
        page.check_layout()?;
        page.check_order(kind, bounds)?;
        if depth > 1 {
            counts.branch_pages += 1;
            for index in 0..page.nodes {
                let node = page.node(index)?;
                let lower = if index == 0 { bounds.0 } else { Some(node.key) };
                let next =
                    if index + 1 < page.nodes { Some(page.node(index + 1)?.key) } else { None };
                self.page(node.child(), depth - 1, kind, (lower, next.or(bounds.1)), counts)?;
            }
            return Ok(());
        }
        counts.leaf_pages += 1;
        counts.entries += page.nodes as u64;
        for index in 0..page.nodes {
            let node = page.node(index)?;
            self.leaf_node(number, &node, kind, counts)?;
        }
        Ok(())
    }

    fn leaf_node(
        &mut self,
        page: u64,
        node: &Node<'_>,
        kind: Kind,
        counts: &mut Counts,
    ) -> Check<()> {
        let wrong = |what: &str| Err(format!("a node of page {page} {what}"));
        match (kind, node.flags) {
            (Kind::Main, NODE_TREE) => {
                let Ok(name) = std::str::from_utf8(node.key) else {
                    return wrong("names a database with other bytes than UTF-8");
                };
                if node.value.len() != DB_BYTES {
                    return wrong("holds a root record of another length");
                }
                let root = tree_at(node.value, 0)?;
                self.named.push((name.to_owned(), root));
                Ok(())
            }
            (Kind::Free, 0) => self.free_list(node.value),
            (Kind::Named, 0) => Ok(()),
            (Kind::Free | Kind::Named, NODE_BIG) => {
                let first = u64_at(node.value, 0)?;
                let pages = self.overflow(first, node.size)?;
                counts.overflow_pages += pages;
                if kind == Kind::Free {
                    let mut list = vec![0; node.size];
                    let start = first * self.meta.page_size + HEADER_BYTES as u64;
                    self.file
                        .read_exact_at(&mut list, start)
                        .map_err(|error| format!("page {first} cannot be read: {error}"))?;
                    self.free_list(&list)?;
                }
                Ok(())
            }
            _ => wrong(&format!("has flags {:#x}", node.flags)),
        }
    }

    /// Checks the header of a value on overflow pages, and returns how many they are.
    fn overflow(&mut self, first: u64, size: usize) -> Check<u64> {
        self.in_range(first, 1)?;
        let mut header = [0; HEADER_BYTES];
        self.file
            .read_exact_at(&mut header, first * self.meta.page_size)
            .map_err(|error| format!("page {first} cannot be read: {error}"))?;
        let (number, flags) = (u64_at(&header, 0)?, u16_at(&header, 10)?);
        let pages = u64::from(u32_at(&header, 12)?);
        if number != first || flags != OVERFLOW {
            return Err(format!(
                "page {first} is not an overflow page (number {number}, flags {flags:#x})"
            ));
        }
        // A value that was replaced by a shorter one keeps its pages.
        if pages < (HEADER_BYTES + size).div_ceil(self.page_size) as u64 {
            return Err(format!("page {first} has {pages} pages for a value of {size} bytes"));
        }
        self.in_range(first, pages)?;
        for page in first..first + pages {
            self.mark(page)?;
        }
        Ok(pages)
    }

    /// A list of free pages: their number, then the pages, descending.
    fn free_list(&mut self, list: &[u8]) -> Check<()> {
        let count = u64_at(list, 0)?;
        if count > (list.len() / 8 - 1) as u64 {
            return Err(format!("a free list of {} bytes names {count} pages", list.len()));
        }
        let mut above = u64::MAX;
        for index in 1..=count as usize {
            let page = u64_at(list, index * 8)?;
            self.in_range(page, 1)?;
            if page >= above {
                return Err(format!("a free list names page {page} after page {above}"));
            }
            above = page;
            // Free pages at the end may never have been written.
            if page < self.file_pages {
                self.mark(page)?;
            }
        }
        Ok(())
    }
}

/// A branch or leaf page whose header is sound.
struct Page<'a> {
    number: u64,
    bytes: &'a [u8],
    branch: bool,
    upper: usize,
    nodes: usize,
}

struct Node<'a> {
    /// Where it begins and ends in the page, padded to 2 bytes.
    offset: usize,
    end: usize,
    flags: u16,
    low: u32,
    key: &'a [u8],
    /// Bytes of the value, wherever it lies.
    size: usize,
    /// The value, or for a big one the number of its first page.
    value: &'a [u8],
}

impl Node<'_> {
    /// The child of a branch node: the flags are the top of its number.
    fn child(&self) -> u64 {
        u64::from(self.low) | u64::from(self.flags) << 32
    }
}

impl<'a> Page<'a> {
    fn parse(number: u64, bytes: &'a [u8], expected: u16) -> Check<Self> {
        let (found, flags) = (u64_at(bytes, 0)?, u16_at(bytes, 10)?);
        if found != number || flags != expected {
            return Err(format!(
                "page {number} holds page {found} with flags {flags:#x} instead of {expected:#x}"
            ));
        }
        let (lower, upper) = (usize::from(u16_at(bytes, 12)?), usize::from(u16_at(bytes, 14)?));
        if lower < HEADER_BYTES || lower > upper || upper > bytes.len() || lower % 2 != 0 {
            return Err(format!("page {number} has bounds {lower} and {upper}"));
        }
        let nodes = (lower - HEADER_BYTES) / 2;
        if nodes == 0 {
            return Err(format!("page {number} is empty"));
        }
        Ok(Self { number, bytes, branch: expected == BRANCH, upper, nodes })
    }

    fn node(&self, index: usize) -> Check<Node<'a>> {
        let broken = || format!("node {index} of page {} lies outside it", self.number);
        let offset = usize::from(u16_at(self.bytes, HEADER_BYTES + 2 * index)?);
        if offset < self.upper || offset % 2 != 0 {
            return Err(broken());
        }
        let bytes = self.bytes.get(offset..).ok_or_else(broken)?;
        let (low, flags) = (u32_at(bytes, 0)?, u16_at(bytes, 4)?);
        let key_end = NODE_BYTES + usize::from(u16_at(bytes, 6)?);
        let key = bytes.get(NODE_BYTES..key_end).ok_or_else(broken)?;
        let size = low as usize;
        let inline = match (self.branch, flags & NODE_BIG != 0) {
            (true, _) => 0,
            (false, true) => 8,
            (false, false) => size,
        };
        let end = key_end.checked_add(inline).ok_or_else(broken)?;
        let value = bytes.get(key_end..end).ok_or_else(broken)?;
        let end = offset + end.next_multiple_of(2);
        Ok(Node { offset, end, flags, low, key, size, value })
    }

    /// The nodes fill the end of the page without gaps: where they overlap, reading may be right,
    /// but the next write would tear them.
    fn check_layout(&self) -> Check<()> {
        let mut spans = Vec::with_capacity(self.nodes);
        for index in 0..self.nodes {
            let node = self.node(index)?;
            spans.push((node.offset, node.end));
        }
        spans.sort_unstable();
        let mut filled = self.upper;
        for (start, end) in spans {
            if start != filled {
                return Err(format!("the nodes of page {} overlap or leave a gap", self.number));
            }
            filled = end;
        }
        if filled != self.bytes.len() {
            return Err(format!("the nodes of page {} end at byte {filled}", self.number));
        }
        Ok(())
    }

    /// Keys ascend, and lie between those of the parent's nodes.
    fn check_order(&self, kind: Kind, bounds: (Option<&[u8]>, Option<&[u8]>)) -> Check<()> {
        // A branch has two children at least (LMDB asserts it), except while the free list shrinks.
        if self.branch && self.nodes < 2 && kind != Kind::Free {
            return Err(format!("branch page {} has one child", self.number));
        }
        let mut previous = bounds.0;
        // The first key of a branch page is never looked at.
        for index in usize::from(self.branch)..self.nodes {
            let key = self.node(index)?.key;
            if kind == Kind::Free && key.len() != 8 {
                return Err(format!(
                    "page {} of the free list has a key of {} bytes",
                    self.number,
                    key.len()
                ));
            }
            if key.is_empty() || key.len() > MAX_KEY_BYTES {
                return Err(format!("page {} has a key of {} bytes", self.number, key.len()));
            }
            if let Some(previous) = previous {
                let ordered = match (index == 0, kind) {
                    // The parent's key may be equal to the first.
                    (true, Kind::Free) => integer(previous)? <= integer(key)?,
                    (true, _) => previous <= key,
                    (false, Kind::Free) => integer(previous)? < integer(key)?,
                    (false, _) => previous < key,
                };
                if !ordered {
                    return Err(format!("the keys of page {} are out of order", self.number));
                }
            }
            previous = Some(key);
        }
        if let (Some(last), Some(bound)) = (previous, bounds.1) {
            let ordered = match kind {
                Kind::Free => integer(last)? < integer(bound)?,
                _ => last < bound,
            };
            if !ordered {
                return Err(format!("page {} has keys of its neighbour", self.number));
            }
        }
        Ok(())
    }
}

fn integer(key: &[u8]) -> Check<u64> {
    u64_at(key, 0)
}

fn tree_at(bytes: &[u8], at: usize) -> Check<Tree> {
    Ok(Tree {
        flags: u16_at(bytes, at + 4)?,
        depth: u16_at(bytes, at + 6)?,
        branch_pages: u64_at(bytes, at + 8)?,
        leaf_pages: u64_at(bytes, at + 16)?,
        overflow_pages: u64_at(bytes, at + 24)?,
        entries: u64_at(bytes, at + 32)?,
        root: u64_at(bytes, at + 40)?,
    })
}

fn array_at<const N: usize>(bytes: &[u8], at: usize) -> Check<[u8; N]> {
    bytes
        .get(at..)
        .and_then(|rest| rest.first_chunk::<N>())
        .copied()
        .ok_or_else(|| format!("{} bytes end before byte {}", bytes.len(), at + N))
}

fn u16_at(bytes: &[u8], at: usize) -> Check<u16> {
    array_at(bytes, at).map(u16::from_ne_bytes)
}

fn u32_at(bytes: &[u8], at: usize) -> Check<u32> {
    array_at(bytes, at).map(u32::from_ne_bytes)
}

fn u64_at(bytes: &[u8], at: usize) -> Check<u64> {
    array_at(bytes, at).map(u64::from_ne_bytes)
}
