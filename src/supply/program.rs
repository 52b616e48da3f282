//! A producer that is a program: it reads an Arrow IPC stream on stdin, and writes one to stdout with a batch of one column
//! for each that it was given. What it writes to stderr is shown.

use std::collections::VecDeque;
use std::fmt;
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arrow::array::{Array, ArrayRef, RecordBatch};
use arrow::buffer::Buffer;
use arrow::ipc::reader::StreamDecoder;
use arrow::ipc::writer::StreamWriter;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command};

use crate::error::{Error, Result};
use crate::plan::amounts::counted;
use crate::progress::{SharedProgress, note};
use crate::secret::secret_among;
use crate::supply::producer::Failure;

/// Bytes that are read of a program's output at once.
const READ_BYTES: usize = 1 << 20;

/// Lines of stderr that an error repeats.
const LINES: usize = 8;

/// Bytes of a line of stderr that are shown.
const LINE_BYTES: usize = 2_000;

/// Why a program is not called any more.
const MORE: &str = "it wrote more to stdout than one batch for the one that it was given";

/// How long a program's first answer is waited after: one that gives more than one batch for a batch does so at once.
const SILENCE_TIME: Duration = Duration::from_millis(50);

/// Bytes of what is no stream that are shown.
const SHOWN_BYTES: usize = 60;

/// How long a program that has read all may take to end by itself.
const END_TIME: Duration = Duration::from_secs(5);

/// How long its last lines are waited for once it has ended.
const LINES_TIME: Duration = Duration::from_secs(1);

/// A program, and those of its processes that wait for more.
#[derive(Debug)]
pub(super) struct Program {
    words: Vec<String>,
    variables: Vec<(&'static str, String)>,
    /// What it is called in notes.
    name: String,
    idle: Mutex<Vec<Process>>,
    /// Whether a process gave more than it was asked for, after it had answered before.
    gave_more: AtomicBool,
    progress: SharedProgress,
}

/// One process of a program.
struct Process {
    child: Child,
    input: ChildStdin,
    output: ChildStdout,
    writer: StreamWriter<Vec<u8>>,
    decoder: StreamDecoder,
    /// What was read of its output, and not decoded.
    left: Buffer,
    lines: Arc<Mutex<VecDeque<String>>>,
    told: tokio::task::JoinHandle<()>,
    /// How often it has answered.
    answers: u64,
}

impl fmt::Debug for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Process").field("child", &self.child).finish_non_exhaustive()
    }
}

impl Program {
    /// The program of the command `line`, which is split into words as a shell does it, and is started without one.
    ///
    /// # Errors
    /// `Usage`, when the line is empty, or a quote is not closed.
    pub(super) fn of(
        line: &str,
        variables: Vec<(&'static str, String)>,
        progress: SharedProgress,
    ) -> Result<Self> {
        let words = words(line)
            .filter(|words| !words.is_empty())
            .ok_or_else(|| Error::usage(format!("not a command line: `{line}`")))?;
        if let Some(word) = secret_among(&words) {
            let message = format!(
                "`{word}` gives a secret to the program, and its command line stands in the journal and in \
                                   the table's history"
            );
            return Err(Error::usage(message)
                .with_advice("put it into the environment, which the program has too"));
        }
        let first = words.first().map_or("", String::as_str);
        let name = first.rsplit(['/', '\\']).next().unwrap_or(first).to_owned();
        let (idle, gave_more) = (Mutex::default(), AtomicBool::new(false));
        Ok(Self { words, variables, name, idle, gave_more, progress })
    }

    /// What it gives for `inputs`.
    ///
    /// # Errors
    /// Why it gives nothing. The process is gone then.
    ///
    /// # Cancellation
    /// The process is killed.
    pub(super) async fn call(
        &self,
        inputs: &RecordBatch,
    ) -> std::result::Result<ArrayRef, Failure> {
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let mut process = match idle {
            Some(process) => process,
            None => self.start(inputs)?,
        };
        let answers = process.answers;
        match process.call(inputs).await {
            Ok(values) => {
                self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(process);
                Ok(values)
            }
            Err(why) => {
                let is_of_all = why == MORE;
                if is_of_all && answers > 0 {
                    self.gave_more.store(true, Ordering::Relaxed);
                }
                Err(Failure { is_of_all, ..process.end_of(why).await })
            }
        }
    }

    fn start(&self, inputs: &RecordBatch) -> std::result::Result<Process, Failure> {
        let failed = |error: &dyn fmt::Display| {
            let program = self.words.first().map_or("", String::as_str);
            let failure = Failure::of(format!("cannot start `{program}`: {error}"));
            Failure { is_of_all: true, ..failure }
        };
        let (first, rest) = self.words.split_first().ok_or_else(|| failed(&"it has no name"))?;
        let mut command = Command::new(first);
        command.args(rest).envs(self.variables.iter().map(|(name, text)| (name, text)));
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.kill_on_drop(true).spawn().map_err(|error| failed(&error))?;
        let (input, output) = (child.stdin.take(), child.stdout.take());
        let (Some(input), Some(output), Some(errors)) = (input, output, child.stderr.take()) else {
            return Err(failed(&"it has no pipes"));
        };
        let lines = Arc::<Mutex<VecDeque<String>>>::default();
        let told = tokio::spawn(tell(
            errors,
            self.name.clone(),
            Arc::clone(&lines),
            Arc::clone(&self.progress),
        ));
        let writer = StreamWriter::try_new(Vec::new(), &inputs.schema());
        Ok(Process {
            child,
            input,
            output,
            writer: writer.map_err(|error| failed(&error))?,
            decoder: StreamDecoder::new(),
            left: Buffer::from_vec(Vec::<u8>::new()),
            lines,
            told,
            answers: 0,
        })
    }

    /// Lets all processes end: they find that there is no more to read.
    ///
    /// # Errors
    /// `Mismatch`, when one gave more batches than it was given: it is not known which of them belong to which rows.
    pub(super) async fn close(&self) -> Result<()> {
        let idle = std::mem::take(&mut *self.idle.lock().unwrap_or_else(PoisonError::into_inner));
        let mut ends = Vec::new();
        for Process { mut child, input, mut output, mut decoder, mut left, told, .. } in idle {
            drop(input);
            ends.push(async move {
                // Its stream has an end too. A process that goes on is killed when it is dropped.
                let ends = async {
                    let more = read_batch(&mut output, &mut decoder, &mut left).await;
                    let _ = child.wait().await;
                    matches!(more, Ok(Some(_)))
                };
                let gave_more = tokio::time::timeout(END_TIME, ends).await.unwrap_or_default();
                let _ = tokio::time::timeout(LINES_TIME, told).await;
                gave_more
            });
        }
        let gave_more = futures::future::join_all(ends).await.contains(&true);
        if !gave_more && !self.gave_more.load(Ordering::Relaxed) {
            return Ok(());
        }
        let message = format!(
            "`{}` gave more batches than it was given, so that values may stand in other rows",
            self.name
        );
        Err(Error::mismatch(message)
            .with_advice("it has to give one batch for each; what it gave in this run is dropped"))
    }
}

impl Process {
    async fn call(&mut self, inputs: &RecordBatch) -> std::result::Result<ArrayRef, String> {
        self.expect_silence(Duration::ZERO).await?;
        let values = self.ask(inputs).await?;
        if values.len() != inputs.num_rows() {
            // What it gives next may be the rest of this answer: it is not asked again.
            let count = counted(values.len() as u64, "value");
            let rows = counted(inputs.num_rows() as u64, "row");
            return Err(format!("it gave {count} for {rows}"));
        }
        if self.answers == 0 {
            self.expect_silence(SILENCE_TIME).await?;
        }
        self.answers += 1;
        Ok(values)
    }

    /// Fails when there is more on stdout within `time`, although nothing was asked: what comes next would be taken for
    /// the answer to something else.
    async fn expect_silence(&mut self, time: Duration) -> std::result::Result<(), String> {
        if !self.left.is_empty() {
            return Err(MORE.to_owned());
        }
        let mut byte = [0];
        match tokio::time::timeout(time, self.output.read(&mut byte)).await {
            // It is silent, or it has ended, which is seen next.
            Err(_) | Ok(Ok(0) | Err(_)) => Ok(()),
            Ok(Ok(_)) => Err(MORE.to_owned()),
        }
    }

    async fn ask(&mut self, inputs: &RecordBatch) -> std::result::Result<ArrayRef, String> {
        let written = self.writer.write(inputs);
        written.map_err(|error| format!("its inputs cannot be written: {error}"))?;
        let bytes = std::mem::take(self.writer.get_mut());
        let Self { input, output, decoder, left, .. } = self;
        let write = async {
            input.write_all(&bytes).await?;
            input.flush().await
        };
        // It may write before it has read all.
        let (written, read) = tokio::join!(write, read_batch(output, decoder, left));
        let batch = match (read, written) {
            (Ok(Some(batch)), _) => batch,
            (Ok(None), _) => return Err("it ended".to_owned()),
            (Err(why), _) => return Err(why),
        };
        match batch.columns() {
            [values] => Ok(Arc::clone(values)),
            columns => Err(format!("it gave {} columns, not 1", columns.len())),
        }
    }

    /// Ends the process, and adds to `why` what it said last.
    async fn end_of(self, why: String) -> Failure {
        let Self { mut child, input, output, lines, told, .. } = self;
        drop((input, output));
        let ended = why == "it ended";
        if !ended {
            let _ = child.start_kill();
        }
        let status = tokio::time::timeout(END_TIME, child.wait()).await;
        let _ = tokio::time::timeout(LINES_TIME, told).await;
        let why = match status {
            Ok(Ok(status)) if ended => format!("it ended with {status}"),
            _ => why,
        };
        let lines = lines.lock().unwrap_or_else(PoisonError::into_inner);
        Failure { lines: lines.iter().cloned().collect(), ..Failure::of(why) }
    }
}

/// The next batch that `output` has; `None`, when it has ended.
async fn read_batch(
    output: &mut ChildStdout,
    decoder: &mut StreamDecoder,
    left: &mut Buffer,
) -> std::result::Result<Option<RecordBatch>, String> {
    let wrong = |why: &dyn fmt::Display| format!("stdout is no Arrow IPC stream: {why}");
    let mut begins = true;
    loop {
        if begins && !left.is_empty() {
            begins = false;
            expect_message(left).map_err(|why| wrong(&why))?;
        }
        while !left.is_empty() {
            let read = decoder.decode(left);
            if let Some(batch) = read.map_err(|error| wrong(&error))? {
                return Ok(Some(batch));
            }
        }
        let mut bytes = Vec::with_capacity(READ_BYTES);
        let read = output.read_buf(&mut bytes).await;
        match read.map_err(|error| format!("its output cannot be read: {error}"))? {
            0 => return Ok(None),
            _ => *left = Buffer::from_vec(bytes),
        }
    }
}

/// Refuses what begins as no message does: any text would be read as its length.
fn expect_message(bytes: &[u8]) -> std::result::Result<(), String> {
    if bytes.iter().take(4).all(|byte| *byte == 0xff) {
        return Ok(());
    }
    let text: Vec<u8> = bytes.iter().take(SHOWN_BYTES).copied().collect();
    Err(format!("it begins with `{}`", String::from_utf8_lossy(&text).trim_end()))
}

/// Shows the lines of `errors`, and keeps the last ones.
async fn tell(
    errors: ChildStderr,
    name: String,
    lines: Arc<Mutex<VecDeque<String>>>,
    progress: SharedProgress,
) {
    let mut reader = BufReader::new(errors);
    let mut line = Vec::new();
    // What is no text is shown as far as it is; what cannot be read any more has ended.
    while matches!(reader.read_until(b'\n', &mut line).await, Ok(count) if count > 0) {
        // A bar that draws itself again and again is seen as it was last.
        let text = String::from_utf8_lossy(&line);
        let text = text.trim_end().rsplit('\r').next().unwrap_or_default();
        let text: String = text.chars().take(LINE_BYTES).collect();
        line.clear();
        if text.is_empty() {
            continue;
        }
        note(&progress, format!("{name}: {text}"));
        let mut lines = lines.lock().unwrap_or_else(PoisonError::into_inner);
        lines.push_back(text);
        while lines.len() > LINES {
            lines.pop_front();
        }
    }
}

/// The words of a command line, as a shell splits it: quotes keep spaces, a backslash keeps the next character.
/// `None`, when a quote is not closed.
fn words(line: &str) -> Option<Vec<String>> {
    let (mut words, mut word, mut quote) = (Vec::new(), None::<String>, None);
    let mut letters = line.chars();
    while let Some(letter) = letters.next() {
        match (letter, quote) {
            (one, Some(open)) if one == open => quote = None,
            ('\\', None | Some('"')) => word.get_or_insert_default().push(letters.next()?),
            ('\'' | '"', None) => {
                quote = Some(letter);
                word.get_or_insert_default();
            }
            (space, None) if space.is_whitespace() => words.extend(word.take()),
            (other, _) => word.get_or_insert_default().push(other),
        }
    }
    words.extend(word);
    quote.is_none().then_some(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_split_as_a_shell_does_it() {
        let split = |line: &str| words(line).unwrap_or_default();
        assert_eq!(split("./embed.py  --model 'a b'"), ["./embed.py", "--model", "a b"]);
        assert_eq!(split(r#"a"b c"\ d "" "\"""#), ["ab c d", "", "\""]);
        assert_eq!(split(" "), Vec::<String>::new());
        assert_eq!(words("a 'b"), None);
    }
}
