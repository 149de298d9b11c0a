//! `tokenizer.json` by the `tokenizers` library, with what the server needs besides: the bytes of each token and which are
//! special. Its regular expressions run with a bound on backtracking (a million steps a match, after which the rest
//! of the text counts as one piece), so no text can make them hang.

use std::path::Path;

use serde_json::Value;
use tokenizers::AddedToken;

use super::model::TextError;

/// Text to ids and back.
#[derive(Debug)]
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    tokens: Vec<Token>,
    longest: usize,
}

#[derive(Clone, Debug, Default)]
struct Token {
    bytes: Box<[u8]>,
    special: bool,
    byte_fallback: bool,
}

impl Tokenizer {
    /// Reads `tokenizer.json` and, where `config` (the content of `tokenizer_config.json`) names them, special tokens.
    pub fn from_file(path: &Path, config: &Value) -> Result<Self, TextError> {
        let bytes = std::fs::read(path).map_err(|error| TextError::Read { path: path.to_owned(), error })?;
        Self::from_bytes(&bytes, config).map_err(|reason| TextError::Tokenizer { path: path.to_owned(), reason })
    }

    /// The same from memory; the error is the library's words.
    pub fn from_bytes(bytes: &[u8], config: &Value) -> Result<Self, String> {
        let mut inner = tokenizers::Tokenizer::from_bytes(bytes).map_err(|error| error.to_string())?;
        // A tokenizer.json may carry the truncation it was trained with, which would cut prompts in silence.
        inner.with_truncation(None).map_err(|error| error.to_string())?;
        inner.with_padding(None);
        add_tokens(&mut inner, config)?;
        let tokens = token_table(&inner)?;
        let longest = tokens.iter().map(|token| token.bytes.len()).max().unwrap_or(1).max(1);
        Ok(Self { inner, tokens, longest })
    }

    /// Ids of `text`; `special` adds what the model wants around a raw prompt (a beginning-of-text token).
    pub fn encode(&self, text: &str, special: bool) -> Result<Vec<u32>, TextError> {
        let encoding =
            self.inner.encode_fast(text, special).map_err(|error| TextError::Encode { reason: error.to_string() })?;
        Ok(encoding.get_ids().to_vec())
    }

    /// Text of `ids` without special tokens; ids outside the vocabulary have none.
    pub fn decode(&self, ids: &[u32]) -> String {
        self.inner.decode(ids, true).unwrap_or_default()
    }

    /// Text of `ids` with special tokens written out.
    pub fn decode_all(&self, ids: &[u32]) -> String {
        self.inner.decode(ids, false).unwrap_or_default()
    }

    /// The id of a token by its name in the vocabulary.
    pub fn id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// The bytes a token stands for, which need not be whole characters.
    pub fn bytes(&self, id: u32) -> &[u8] {
        self.token(id).map_or(&[], |token| &token.bytes)
    }

    /// Whether it is a control token, which never appears in a reply's text.
    pub fn is_special(&self, id: u32) -> bool {
        self.token(id).is_some_and(|token| token.special)
    }

    /// Whether it is one raw byte of a vocabulary that spells unknown characters in bytes.
    pub fn is_byte_fallback(&self, id: u32) -> bool {
        self.token(id).is_some_and(|token| token.byte_fallback)
    }

    /// Ids are below this.
    pub fn vocabulary(&self) -> usize {
        self.tokens.len()
    }

    /// No text of `bytes` bytes can be fewer tokens than this, so that a hopeless prompt is refused before the work.
    /// Normalisers may shorten text; a factor of four covers all that compose characters.
    pub fn fewest_tokens(&self, bytes: usize) -> usize {
        bytes / self.longest / 4
    }

    fn token(&self, id: u32) -> Option<&Token> {
        self.tokens.get(usize::try_from(id).ok()?)
    }
}

/// Adds what `tokenizer_config.json` knows and `tokenizer.json` may not: older checkpoints list special tokens only there.
fn add_tokens(inner: &mut tokenizers::Tokenizer, config: &Value) -> Result<(), String> {
    if let Some(Value::Object(listed)) = config.get("added_tokens_decoder") {
        let mut listed: Vec<_> =
            listed.iter().filter_map(|(id, token)| Some((id.parse::<u32>().ok()?, token))).collect();
        listed.sort_by_key(|(id, _)| *id);
        for (id, token) in listed {
            let Some(content) = content(token) else { continue };
            if inner.token_to_id(content).is_some() {
                continue;
            }
            let flag = |name: &str| token.get(name).and_then(Value::as_bool);
            let special = flag("special").unwrap_or(false);
            let added = AddedToken::from(content.to_owned(), special)
                .single_word(flag("single_word").unwrap_or(false))
                .lstrip(flag("lstrip").unwrap_or(false))
                .rstrip(flag("rstrip").unwrap_or(false))
                .normalized(flag("normalized").unwrap_or(!special));
            inner.add_tokens([added]).map_err(|error| error.to_string())?;
            let got = inner.token_to_id(content);
            if got != Some(id) {
                return Err(format!(
                    "tokenizer_config.json gives token {content:?} the id {id}, the vocabulary {got:?}"
                ));
            }
        }
    }
    let named = ["bos_token", "eos_token", "unk_token", "pad_token"].into_iter().filter_map(|name| config.get(name));
    let more = config.get("additional_special_tokens").and_then(Value::as_array).into_iter().flatten();
    let known = inner.get_added_tokens_decoder();
    let missing: Vec<AddedToken> = named
        .chain(more)
        .filter_map(content)
        .filter(|token| inner.token_to_id(token).is_some_and(|id| !known.get(&id).is_some_and(|known| known.special)))
        .map(|token| AddedToken::from(token.to_owned(), true))
        .collect();
    inner.add_special_tokens(missing).map_err(|error| error.to_string())?;
    Ok(())
}

/// A token is written as its text or as an object that holds it.
pub(super) fn content(token: &Value) -> Option<&str> {
    token.as_str().or_else(|| token.get("content")?.as_str())
}

fn token_table(inner: &tokenizers::Tokenizer) -> Result<Vec<Token>, String> {
    let decoder = serde_json::to_string(&inner.get_decoder()).map_err(|error| error.to_string())?;
    let byte_level = decoder.contains("\"ByteLevel\"");
    let byte_fallback = decoder.contains("\"ByteFallback\"");
    let added = inner.get_added_tokens_decoder();
    let vocabulary = inner.get_vocab(true);
    let count = vocabulary.values().max().map_or(0, |&id| id as usize + 1);
    // A file may give one token an absurd id; the table must not become gigabytes for it.
    if count > 4 * vocabulary.len() + 65_536 {
        return Err(format!("token ids go up to {} for {} tokens", count - 1, vocabulary.len()));
    }
    let mut tokens = vec![Token::default(); count];
    for (text, id) in vocabulary {
        let entry = &mut tokens[id as usize];
        if let Some(added) = added.get(&id) {
            *entry = Token { bytes: text.into_bytes().into(), special: added.special, byte_fallback: false };
        } else if let Some(byte) = byte_fallback.then(|| fallback_byte(&text)).flatten() {
            *entry = Token { bytes: Box::new([byte]), special: false, byte_fallback: true };
        } else if let Some(bytes) = byte_level.then(|| byte_level_bytes(&text)).flatten() {
            entry.bytes = bytes.into();
        } else {
            entry.bytes = text.replace('▁', " ").into_bytes().into();
        }
    }
    Ok(tokens)
}

/// The byte of `<0x41>`.
fn fallback_byte(token: &str) -> Option<u8> {
    let digits = token.strip_prefix("<0x")?.strip_suffix('>')?;
    (digits.len() == 2).then(|| u8::from_str_radix(digits, 16).ok()).flatten()
}

/// Byte-level vocabularies write each byte as one printable character: printable Latin-1 as itself, the rest from U+0100 up.
fn byte_level_bytes(token: &str) -> Option<Vec<u8>> {
    let printable = |byte: u8| matches!(byte, b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF);
    token
        .chars()
        .map(|c| match u8::try_from(c) {
            Ok(byte) if printable(byte) => Some(byte),
            _ => {
                let index = u32::from(c).checked_sub(0x100)?;
                (0..=u8::MAX).filter(|&byte| !printable(byte)).nth(usize::try_from(index).ok()?)
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn byte_level_alphabet() {
        assert_eq!(byte_level_bytes("ĠhiĊ"), Some(b" hi\n".to_vec()));
        assert_eq!(byte_level_bytes("Ã©"), Some("é".as_bytes().to_vec()));
        assert_eq!(byte_level_bytes("漢"), None);
        assert_eq!(fallback_byte("<0x0A>"), Some(10));
    }
}
