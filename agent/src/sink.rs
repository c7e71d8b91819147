//! The one room of `unsafe`: a write-only SQLite VFS that hands each page of a backup to a [`PageSink`].
//!
//! SQLite's backup API writes to a destination database. Ours is no file: its `xWrite` receives every page of the
//! source once and passes it on, so a snapshot needs no staged copy and no memory that grows with the database.
//!
//! What SQLite does with such a destination (journal off, a cache of a few pages), observed and relied upon:
//! it writes whole pages, each once, in no promised order (page 1 near the end); it reads only the first 100 bytes
//! back; it never writes the lock-byte page, and it truncates nothing. Everything else is answered with an I/O error,
//! and [`Feed::finish`] counts the pages, so a future SQLite that behaves otherwise fails loudly.
//!
//! The argument for the `unsafe`:
//! - The VFS is registered once per process and never freed, so SQLite's pointers to it and to [`METHODS`] stay valid.
//! - SQLite allocates `szOsFile` bytes for a file, aligned for any C type, and calls the methods only between a
//!   successful `xOpen` and `xClose`. `xOpen` writes a whole [`SinkFile`] there before it succeeds, and sets
//!   `pMethods` to null before it fails, so that no other method sees an unfinished one.
//! - A [`SinkFile`] owns one strong count of its `Arc<Mutex<Intake>>`, taken in `xOpen` and given back in `xClose`.
//! - Buffers are used only for the length SQLite gave, and only during the call.
//! - No panic crosses into C: each callback that runs our code catches it and answers with an I/O error.
#![allow(unsafe_code, reason = "this file is the room for it; the argument stands above")]

use pullback_shared::fault::{Fault, Kind};
use pullback_shared::header::HEADER_LEN;
use pullback_shared::page::{Geometry, PageNo};
use rusqlite::ffi;
use rusqlite::{Connection, OpenFlags};
use std::collections::HashMap;
use std::ffi::{CStr, c_char, c_int, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

/// Where the pages of a snapshot go.
pub trait PageSink: Send {
    /// Takes page `no`. An error stops the backup cleanly and is what its caller sees.
    fn page(&mut self, no: PageNo, page: &mut [u8]) -> Result<(), Fault>;
}

/// The name under which SQLite knows the VFS.
const VFS_NAME: &CStr = c"pullback-sink";

/// What is behind one destination database: the sink, and what was seen so far.
struct Intake {
    sink: Option<Box<dyn PageSink>>,
    geometry: Geometry,
    /// One bit a page: seen.
    seen: Vec<u64>,
    seen_count: u32,
    /// The first bytes of page 1 once it came; SQLite reads them back.
    header: Option<[u8; HEADER_LEN]>,
    /// The end of the furthest page seen, which is how long SQLite believes the file to be.
    len: u64,
    page: Vec<u8>,
    fault: Option<Fault>,
}

impl Intake {
    fn write(&mut self, bytes: &[u8], offset: i64) -> Result<(), Fault> {
        let size = self.geometry.page_size.as_usize();
        let odd = || {
            Fault::new(Kind::Internal, format!("SQLite wrote {} bytes at {offset} of a backup", bytes.len()))
        };
        let offset = u64::try_from(offset).map_err(|_| odd())?;
        if bytes.len() != size || !offset.is_multiple_of(size as u64) {
            return Err(odd());
        }
        let number = u32::try_from(offset / size as u64).ok().and_then(|index| index.checked_add(1));
        let no = number.and_then(PageNo::new).filter(|no| self.geometry.holds(*no)).ok_or_else(odd)?;
        let (word, bit) = ((no.index() / 64) as usize, no.index() % 64);
        if self.seen[word] & (1 << bit) != 0 {
            return Err(odd());
        }
        self.seen[word] |= 1 << bit;
        self.seen_count += 1;
        self.len = self.len.max(offset + size as u64);
        if no == PageNo::FIRST {
            let mut header = [0; HEADER_LEN];
            header.copy_from_slice(&bytes[..HEADER_LEN]);
            self.header = Some(header);
        }
        self.page.clear();
        self.page.extend_from_slice(bytes);
        match &mut self.sink {
            Some(sink) => sink.page(no, &mut self.page),
            None => Err(odd()),
        }
    }
}

/// A destination for the backup API whose pages go to a sink.
pub(crate) struct Feed {
    connection: Connection,
    intake: Arc<Mutex<Intake>>,
}

impl Feed {
    /// A destination for a backup of a database of `geometry`, which must have pages.
    pub(crate) fn open(geometry: Geometry, sink: Box<dyn PageSink>) -> Result<Self, Fault> {
        assert!(geometry.page_count > 0, "BUG: a backup of a database without pages");
        register()?;
        let intake = Arc::new(Mutex::new(Intake {
            sink: Some(sink),
            geometry,
            seen: vec![0; (geometry.page_count as usize).div_ceil(64)],
            seen_count: 0,
            header: None,
            len: 0,
            page: Vec::with_capacity(geometry.page_size.as_usize()),
            fault: None,
        }));
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let name = format!("/pullback-sink/{}", NEXT.fetch_add(1, Ordering::Relaxed));
        lock(waiting()).insert(name.clone(), Arc::clone(&intake));
        let opened = open_destination(&name);
        lock(waiting()).remove(&name);
        let connection = opened
            .map_err(|error| Fault::new(Kind::Internal, format!("the backup's destination: {error}")))?;
        Ok(Self { connection, intake })
    }

    /// The connection to give to the backup API.
    pub(crate) fn connection(&mut self) -> &mut Connection {
        &mut self.connection
    }

    /// What stopped the backup, if the sink did.
    pub(crate) fn fault(&self) -> Option<Fault> {
        lock(&self.intake).fault.clone()
    }

    /// Closes the destination after a finished backup; an error unless every page came. The sink is dropped.
    pub(crate) fn finish(self) -> Result<(), Fault> {
        drop(self.connection);
        let intake = lock(&self.intake);
        let expected = intake.geometry.page_count - u32::from(intake.geometry.lock_page().is_some());
        match intake.seen_count == expected {
            true => Ok(()),
            false => Err(Fault::new(
                Kind::Internal,
                format!("SQLite backed up {} pages of {expected}", intake.seen_count),
            )),
        }
    }
}

fn open_destination(name: &str) -> rusqlite::Result<Connection> {
    let flags =
        OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags_and_vfs(name, flags, VFS_NAME)?;
    connection.execute_batch(
        "PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF; PRAGMA locking_mode = EXCLUSIVE; PRAGMA cache_size = 8;",
    )?;
    Ok(connection)
}

/// The first 100 bytes of the database file of `connection`, as they lie on the disk: read through SQLite's own file
/// descriptor, since opening and closing the file once more would drop the locks of everybody in this process.
pub(crate) fn raw_header(connection: &Connection) -> Option<[u8; HEADER_LEN]> {
    let file = main_file(connection)?;
    let mut header = [0u8; HEADER_LEN];
    // SAFETY: see `main_file`; `connection` is borrowed until the end of this.
    unsafe {
        let read = (*(*file).pMethods).xRead?;
        let code = read(file, header.as_mut_ptr().cast::<c_void>(), HEADER_LEN as c_int, 0);
        (code == ffi::SQLITE_OK).then_some(header)
    }
}

/// Whether somebody has the lock on the database file of `connection` with which a transaction is prepared in a rollback mode.
/// `None`: that cannot be told.
pub(crate) fn is_reserved(connection: &Connection) -> Option<bool> {
    let file = main_file(connection)?;
    let mut is_reserved: c_int = 0;
    // SAFETY: see `main_file`; `connection` is borrowed until the end of this.
    unsafe {
        let check = (*(*file).pMethods).xCheckReservedLock?;
        let code = check(file, &raw mut is_reserved);
        (code == ffi::SQLITE_OK).then_some(is_reserved != 0)
    }
}

/// SQLite's own handle of the database file of `connection`, with methods; good for as long as `connection` is borrowed.
fn main_file(connection: &Connection) -> Option<*mut ffi::sqlite3_file> {
    let mut file: *mut ffi::sqlite3_file = std::ptr::null_mut();
    // SAFETY: the handle is open for as long as `connection` is borrowed. FCNTL_FILE_POINTER stores a pointer to the
    // connection's main file, which lives as long as the connection; its methods table is static in its VFS.
    unsafe {
        let code = ffi::sqlite3_file_control(
            connection.handle(),
            c"main".as_ptr(),
            ffi::SQLITE_FCNTL_FILE_POINTER,
            (&raw mut file).cast::<c_void>(),
        );
        let is_open = code == ffi::SQLITE_OK && !file.is_null() && !(*file).pMethods.is_null();
        is_open.then_some(file)
    }
}

type Shared = Arc<Mutex<Intake>>;

/// Intakes whose destination is being opened, by name.
fn waiting() -> &'static Mutex<HashMap<String, Shared>> {
    static WAITING: OnceLock<Mutex<HashMap<String, Shared>>> = OnceLock::new();
    WAITING.get_or_init(Mutex::default)
}

/// A sink that panicked has its fault recorded; what it left behind is only dropped.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What SQLite allocates for an open file of ours.
#[repr(C)]
struct SinkFile {
    base: ffi::sqlite3_file,
    intake: *const Mutex<Intake>,
}

fn register() -> Result<(), Fault> {
    static REGISTERED: OnceLock<c_int> = OnceLock::new();
    let code = *REGISTERED.get_or_init(|| {
        // SAFETY: `sqlite3_vfs_find(NULL)` yields the default VFS, which stays registered; its plain functions (time,
        // randomness, sleep) take no state of their own. The copy is leaked on purpose: SQLite keeps the pointer.
        unsafe {
            let default = ffi::sqlite3_vfs_find(std::ptr::null());
            if default.is_null() {
                return ffi::SQLITE_ERROR;
            }
            let mut vfs = *default;
            vfs.szOsFile = size_of::<SinkFile>() as c_int;
            vfs.mxPathname = 64;
            vfs.pNext = std::ptr::null_mut();
            vfs.zName = VFS_NAME.as_ptr();
            vfs.pAppData = std::ptr::null_mut();
            vfs.xOpen = Some(x_open);
            vfs.xDelete = Some(x_delete);
            vfs.xAccess = Some(x_access);
            vfs.xFullPathname = Some(x_full_pathname);
            ffi::sqlite3_vfs_register(Box::leak(Box::new(vfs)), 0)
        }
    });
    match code {
        ffi::SQLITE_OK => Ok(()),
        code => Err(Fault::new(Kind::Internal, format!("SQLite refused the sink VFS (code {code})"))),
    }
}

static METHODS: ffi::sqlite3_io_methods = ffi::sqlite3_io_methods {
    iVersion: 1,
    xClose: Some(x_close),
    xRead: Some(x_read),
    xWrite: Some(x_write),
    xTruncate: Some(x_truncate),
    xSync: Some(x_sync),
    xFileSize: Some(x_file_size),
    xLock: Some(x_lock),
    xUnlock: Some(x_lock),
    xCheckReservedLock: Some(x_check_reserved_lock),
    xFileControl: Some(x_file_control),
    xSectorSize: Some(x_sector_size),
    xDeviceCharacteristics: Some(x_device_characteristics),
    xShmMap: None,
    xShmLock: None,
    xShmBarrier: None,
    xShmUnmap: None,
    xFetch: None,
    xUnfetch: None,
};

unsafe extern "C" fn x_open(
    _vfs: *mut ffi::sqlite3_vfs,
    name: ffi::sqlite3_filename,
    file: *mut ffi::sqlite3_file,
    flags: c_int,
    out_flags: *mut c_int,
) -> c_int {
    // SAFETY: `file` has room for a `SinkFile` (szOsFile); `name` is null or a C string.
    unsafe {
        (*file).pMethods = std::ptr::null();
        if name.is_null() || flags & ffi::SQLITE_OPEN_MAIN_DB == 0 {
            return ffi::SQLITE_CANTOPEN;
        }
        let Ok(name) = CStr::from_ptr(name).to_str() else { return ffi::SQLITE_CANTOPEN };
        let Some(intake) = lock(waiting()).remove(name) else { return ffi::SQLITE_CANTOPEN };
        file.cast::<SinkFile>().write(SinkFile {
            base: ffi::sqlite3_file { pMethods: &raw const METHODS },
            intake: Arc::into_raw(intake),
        });
        if !out_flags.is_null() {
            *out_flags = flags;
        }
    }
    ffi::SQLITE_OK
}

/// Runs `work` on the intake behind `file`; a panic in it becomes a fault.
///
/// # Safety
/// `file` must be one that `x_open` succeeded on and `x_close` was not called for.
unsafe fn with_intake(file: *mut ffi::sqlite3_file, work: impl FnOnce(&mut Intake) -> c_int) -> c_int {
    // SAFETY: as the caller promises, `intake` is a pointer from `Arc::into_raw` whose count is still held.
    let intake = unsafe { &*(*file.cast::<SinkFile>()).intake };
    let mut intake = lock(intake);
    match catch_unwind(AssertUnwindSafe(|| work(&mut intake))) {
        Ok(code) => code,
        Err(_) => {
            intake.fault.get_or_insert_with(|| Fault::new(Kind::Internal, "taking a page panicked"));
            ffi::SQLITE_IOERR
        }
    }
}

unsafe extern "C" fn x_close(file: *mut ffi::sqlite3_file) -> c_int {
    // SAFETY: called once for an open file; gives back the count that `x_open` took.
    unsafe { drop(Arc::from_raw((*file.cast::<SinkFile>()).intake)) };
    ffi::SQLITE_OK
}

unsafe extern "C" fn x_write(
    file: *mut ffi::sqlite3_file,
    data: *const c_void,
    len: c_int,
    offset: i64,
) -> c_int {
    let Ok(len) = usize::try_from(len) else { return ffi::SQLITE_IOERR_WRITE };
    // SAFETY: SQLite gives `len` readable bytes at `data` for the time of the call, on an open file.
    unsafe {
        let bytes = std::slice::from_raw_parts(data.cast::<u8>(), len);
        with_intake(file, |intake| match intake.write(bytes, offset) {
            Ok(()) => ffi::SQLITE_OK,
            Err(fault) => {
                intake.fault.get_or_insert(fault);
                ffi::SQLITE_IOERR_WRITE
            }
        })
    }
}

unsafe extern "C" fn x_read(
    file: *mut ffi::sqlite3_file,
    data: *mut c_void,
    len: c_int,
    offset: i64,
) -> c_int {
    let Ok(len) = usize::try_from(len) else { return ffi::SQLITE_IOERR_READ };
    // SAFETY: SQLite gives `len` writable bytes at `data` for the time of the call, on an open file.
    unsafe {
        let bytes = std::slice::from_raw_parts_mut(data.cast::<u8>(), len);
        with_intake(file, |intake| {
            let Some(offset) = usize::try_from(offset).ok().filter(|offset| offset + len <= HEADER_LEN)
            else {
                return ffi::SQLITE_IOERR_READ;
            };
            match &intake.header {
                Some(header) => {
                    bytes.copy_from_slice(&header[offset..offset + len]);
                    ffi::SQLITE_OK
                }
                None => {
                    bytes.fill(0);
                    ffi::SQLITE_IOERR_SHORT_READ
                }
            }
        })
    }
}

unsafe extern "C" fn x_file_size(file: *mut ffi::sqlite3_file, size: *mut i64) -> c_int {
    // SAFETY: `size` is writable for the time of the call, on an open file.
    unsafe {
        with_intake(file, |intake| {
            *size = intake.len.cast_signed();
            ffi::SQLITE_OK
        })
    }
}

unsafe extern "C" fn x_truncate(file: *mut ffi::sqlite3_file, size: i64) -> c_int {
    // SAFETY: on an open file. A truncation to the length that is there anyway changes nothing; others are refused.
    unsafe {
        with_intake(file, |intake| match intake.geometry.bytes().cast_signed() == size {
            true => ffi::SQLITE_OK,
            false => ffi::SQLITE_IOERR_TRUNCATE,
        })
    }
}

extern "C" fn x_sync(_file: *mut ffi::sqlite3_file, _flags: c_int) -> c_int {
    ffi::SQLITE_OK
}

extern "C" fn x_lock(_file: *mut ffi::sqlite3_file, _level: c_int) -> c_int {
    ffi::SQLITE_OK
}

unsafe extern "C" fn x_check_reserved_lock(_file: *mut ffi::sqlite3_file, reserved: *mut c_int) -> c_int {
    // SAFETY: `reserved` is writable for the time of the call.
    unsafe { *reserved = 0 };
    ffi::SQLITE_OK
}

extern "C" fn x_file_control(_file: *mut ffi::sqlite3_file, _op: c_int, _arg: *mut c_void) -> c_int {
    ffi::SQLITE_NOTFOUND
}

extern "C" fn x_sector_size(_file: *mut ffi::sqlite3_file) -> c_int {
    512
}

extern "C" fn x_device_characteristics(_file: *mut ffi::sqlite3_file) -> c_int {
    0
}

extern "C" fn x_delete(_vfs: *mut ffi::sqlite3_vfs, _name: *const c_char, _sync: c_int) -> c_int {
    ffi::SQLITE_OK
}

unsafe extern "C" fn x_access(
    _vfs: *mut ffi::sqlite3_vfs,
    _name: *const c_char,
    _flags: c_int,
    found: *mut c_int,
) -> c_int {
    // SAFETY: `found` is writable for the time of the call. There are no files here: no journal, no -wal.
    unsafe { *found = 0 };
    ffi::SQLITE_OK
}

unsafe extern "C" fn x_full_pathname(
    _vfs: *mut ffi::sqlite3_vfs,
    name: *const c_char,
    len: c_int,
    full: *mut c_char,
) -> c_int {
    // SAFETY: `name` is a C string and `full` has room for `len` bytes.
    unsafe {
        let bytes = CStr::from_ptr(name).to_bytes_with_nul();
        if usize::try_from(len).is_ok_and(|len| bytes.len() <= len) {
            std::ptr::copy_nonoverlapping(bytes.as_ptr().cast::<c_char>(), full, bytes.len());
            return ffi::SQLITE_OK;
        }
    }
    ffi::SQLITE_CANTOPEN
}
