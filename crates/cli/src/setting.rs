//! Everything that can be set for a reply: one row of [`SETTINGS`] each. A row is a flag of the command line, a name for
//! `/set parameter`, and a line of `/show parameters`.

use std::fmt::Display;
use std::str::FromStr;

use clap::{Arg, ArgAction, ArgMatches, Args, Command, FromArgMatches};
use mlxr_engine::sampler::{MirostatVersion, Params, Stage};

/// Most tokens of a reply if nothing else is said: the context ends it.
pub const MAX_TOKENS: usize = usize::MAX;

/// What a reply is generated with.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// How tokens are chosen. Its `dry.breakers` stay empty: see `breakers`.
    pub params: Params,
    /// Most tokens of a reply.
    pub max_tokens: usize,
    /// Texts that end a reply.
    pub stop: Vec<String>,
    /// Texts that end a repetition for DRY; they become tokens once the tokenizer is known.
    pub breakers: Vec<String>,
}

impl Settings {
    /// These parameters, no stop texts, no limit.
    pub fn new(params: Params) -> Settings {
        let breakers = ["\n", ":", "\"", "*"].map(str::to_owned).to_vec();
        Settings { params, max_tokens: MAX_TOKENS, stop: Vec::new(), breakers }
    }
}

/// One setting.
pub struct Setting {
    /// Its name; the flag has dashes for the underscores.
    pub name: &'static str,
    /// Other names that it is known by.
    pub aliases: &'static [&'static str],
    /// What a value looks like.
    pub value: &'static str,
    /// What it does.
    pub help: &'static str,
    /// Sets it from text, or says what was expected.
    pub set: fn(&mut Settings, &str) -> Result<(), String>,
    /// Its value as text.
    pub get: fn(&Settings) -> String,
}

type Set = fn(&mut Settings, &str) -> Result<(), String>;
type Get = fn(&Settings) -> String;

const fn row(name: &'static str, value: &'static str, help: &'static str, set: Set, get: Get) -> Setting {
    Setting { name, aliases: &[], value, help, set, get }
}

/// All settings.
pub const SETTINGS: &[Setting] = &[
    row(
        "temperature",
        "T",
        "Divides the logits; 0 always takes the likeliest token",
        |s, v| put(&mut s.params.temperature, v),
        |s| text(&s.params.temperature),
    ),
    row(
        "top_k",
        "K",
        "Keep the K likeliest tokens; 0 keeps all",
        |s, v| put(&mut s.params.top_k, v),
        |s| text(&s.params.top_k),
    ),
    row(
        "top_p",
        "P",
        "Keep the fewest likeliest tokens of probability P together; 1 keeps all",
        |s, v| put(&mut s.params.top_p, v),
        |s| text(&s.params.top_p),
    ),
    row(
        "min_p",
        "P",
        "Keep tokens at least P times as likely as the likeliest; 0 keeps all",
        |s, v| put(&mut s.params.min_p, v),
        |s| text(&s.params.min_p),
    ),
    Setting {
        aliases: &["typ_p"],
        ..row(
            "typical_p",
            "P",
            "Keep the most typical tokens of probability P together; 1 keeps all",
            |s, v| put(&mut s.params.typical_p, v),
            |s| text(&s.params.typical_p),
        )
    },
    row(
        "top_n_sigma",
        "N",
        "Keep logits within N standard deviations of the largest; 0 keeps all",
        |s, v| put(&mut s.params.top_n_sigma, v),
        |s| text(&s.params.top_n_sigma),
    ),
    row(
        "xtc_probability",
        "P",
        "Chance that XTC drops the top choices; 0 switches it off",
        |s, v| put(&mut s.params.xtc_probability, v),
        |s| text(&s.params.xtc_probability),
    ),
    row(
        "xtc_threshold",
        "P",
        "XTC leaves the least likely of the tokens of this probability or more",
        |s, v| put(&mut s.params.xtc_threshold, v),
        |s| text(&s.params.xtc_threshold),
    ),
    Setting {
        aliases: &["dynatemp_range"],
        ..row(
            "temperature_range",
            "T",
            "Let the temperature follow the entropy by up to T; 0 switches it off",
            |s, v| put(&mut s.params.temperature_range, v),
            |s| text(&s.params.temperature_range),
        )
    },
    Setting {
        aliases: &["dynatemp_exponent"],
        ..row(
            "temperature_exponent",
            "X",
            "Exponent of the entropy for that",
            |s, v| put(&mut s.params.temperature_exponent, v),
            |s| text(&s.params.temperature_exponent),
        )
    },
    row(
        "repeat_penalty",
        "X",
        "Divides the logits of seen tokens; 1 changes nothing",
        |s, v| put(&mut s.params.repeat_penalty, v),
        |s| text(&s.params.repeat_penalty),
    ),
    row(
        "repeat_last_n",
        "N",
        "Tokens that penalties look back at; -1 for all, 0 for none",
        |s, v| put_window(&mut s.params.repeat_last_n, v),
        |s| window(s.params.repeat_last_n),
    ),
    row(
        "frequency_penalty",
        "X",
        "Subtracted from a token's logit for each time it was seen",
        |s, v| put(&mut s.params.frequency_penalty, v),
        |s| text(&s.params.frequency_penalty),
    ),
    row(
        "presence_penalty",
        "X",
        "Subtracted once from the logit of a seen token",
        |s, v| put(&mut s.params.presence_penalty, v),
        |s| text(&s.params.presence_penalty),
    ),
    row(
        "dry_multiplier",
        "X",
        "Strength of the DRY penalty of repetitions; 0 switches it off",
        |s, v| put(&mut s.params.dry.multiplier, v),
        |s| text(&s.params.dry.multiplier),
    ),
    row(
        "dry_base",
        "X",
        "Growth of the DRY penalty with each repeated token",
        |s, v| put(&mut s.params.dry.base, v),
        |s| text(&s.params.dry.base),
    ),
    row(
        "dry_allowed_length",
        "N",
        "Repetitions shorter than this go unpenalized",
        |s, v| put(&mut s.params.dry.allowed_length, v),
        |s| text(&s.params.dry.allowed_length),
    ),
    row(
        "dry_penalty_last_n",
        "N",
        "Tokens that DRY looks back at; -1 for all, 0 for none",
        |s, v| put_window(&mut s.params.dry.last_n, v),
        |s| window(s.params.dry.last_n),
    ),
    row(
        "dry_sequence_breaker",
        "TEXT",
        "A text that ends a repetition for DRY; repeat for more; `none` for none",
        |s, v| put_list(&mut s.breakers, v),
        |s| list(&s.breakers),
    ),
    row(
        "mirostat",
        "0|1|2",
        "Hold the text's surprise at a target by this version of mirostat; 0 switches it off",
        put_mirostat,
        mirostat,
    ),
    row(
        "mirostat_tau",
        "BITS",
        "Mirostat's target surprise",
        |s, v| put(&mut s.params.mirostat.tau, v),
        |s| text(&s.params.mirostat.tau),
    ),
    row(
        "mirostat_eta",
        "X",
        "Mirostat's learning rate",
        |s, v| put(&mut s.params.mirostat.eta, v),
        |s| text(&s.params.mirostat.eta),
    ),
    row(
        "logit_bias",
        "TOKEN=X",
        "Add X to a token's logit (-inf forbids it); repeat for more; `none` for none",
        put_bias,
        |s| list(&s.params.logit_bias.iter().map(|(token, bias)| format!("{token}={bias}")).collect::<Vec<_>>()),
    ),
    row("samplers", "NAMES", "Order of the samplers, separated by `;`", put_order, |s| {
        s.params.order.iter().map(|stage| stage.name()).collect::<Vec<_>>().join(";")
    }),
    row("seed", "N", "Seed of the random choices; `none` takes another each time", put_seed, |s| {
        s.params.seed.map_or("none".to_owned(), |seed| seed.to_string())
    }),
    Setting {
        aliases: &["num_predict", "n_predict"],
        ..row(
            "max_tokens",
            "N",
            "Most tokens of a reply; -1 for as many as the context holds",
            |s, v| put_window(&mut s.max_tokens, v),
            |s| window(s.max_tokens),
        )
    },
    row(
        "stop",
        "TEXT",
        "A text that ends the reply; repeat for more; `none` for none",
        |s, v| put_list(&mut s.stop, v),
        |s| list(&s.stop),
    ),
];

/// The setting of this name or alias.
pub fn find(name: &str) -> Option<&'static Setting> {
    SETTINGS.iter().find(|row| row.name == name || row.aliases.contains(&name))
}

/// The settings that a model recommends: those that differ from what changes nothing. None if they are the usual ones.
pub fn recommended(settings: &Settings) -> impl Iterator<Item = &'static Setting> {
    let neutral = Settings::new(Params::neutral());
    let is_usual = *settings == Settings::new(Params::default());
    let differs = move |row: &&Setting| !is_usual && (row.get)(settings) != (row.get)(&neutral);
    SETTINGS.iter().filter(differs)
}

impl Setting {
    /// Sets it and checks all parameters.
    ///
    /// # Errors
    /// Says what was found and what was expected; then nothing is changed.
    pub fn assign(&self, settings: &mut Settings, value: &str) -> Result<(), String> {
        let mut changed = settings.clone();
        (self.set)(&mut changed, value)
            .map_err(|expected| format!("{} is `{value}`, expected {expected}", self.name))?;
        changed.params.check().map_err(|error| error.to_string())?;
        *settings = changed;
        Ok(())
    }
}

fn parse<T: FromStr>(value: &str, expected: &str) -> Result<T, String> {
    value.trim().parse().map_err(|_| expected.to_owned())
}

/// Parses a number into its place.
fn put<T: FromStr>(place: &mut T, value: &str) -> Result<(), String> {
    *place = parse(value, "a number")?;
    Ok(())
}

fn put_window(place: &mut usize, value: &str) -> Result<(), String> {
    let n: i64 = parse(value, "an integer, -1 or more")?;
    *place = match n {
        -1 => usize::MAX,
        0.. => n as usize,
        _ => return Err("an integer, -1 or more".into()),
    };
    Ok(())
}

fn put_list(place: &mut Vec<String>, value: &str) -> Result<(), String> {
    match value {
        "none" => place.clear(),
        text => place.push(text.to_owned()),
    }
    Ok(())
}

fn put_mirostat(settings: &mut Settings, value: &str) -> Result<(), String> {
    settings.params.mirostat.version = match value {
        "0" => MirostatVersion::Off,
        "1" => MirostatVersion::V1,
        "2" => MirostatVersion::V2,
        _ => return Err("0, 1 or 2".into()),
    };
    Ok(())
}

fn mirostat(settings: &Settings) -> String {
    let number = match settings.params.mirostat.version {
        MirostatVersion::Off => 0,
        MirostatVersion::V1 => 1,
        MirostatVersion::V2 => 2,
    };
    number.to_string()
}

fn put_bias(settings: &mut Settings, value: &str) -> Result<(), String> {
    let expected = "TOKEN=X, such as 15043=-1.5 or 2=-inf";
    if value == "none" {
        settings.params.logit_bias.clear();
        return Ok(());
    }
    let (token, bias) = value.split_once('=').ok_or(expected)?;
    settings.params.logit_bias.push((parse(token, expected)?, parse(bias, expected)?));
    Ok(())
}

fn put_order(settings: &mut Settings, value: &str) -> Result<(), String> {
    let names = Stage::DEFAULT_ORDER.map(Stage::name).join(";");
    let stages = value.split(';').map(str::trim).filter(|name| !name.is_empty()).map(Stage::from_name);
    settings.params.order = stages.collect::<Option<_>>().ok_or(format!("names out of {names}"))?;
    Ok(())
}

fn put_seed(settings: &mut Settings, value: &str) -> Result<(), String> {
    settings.params.seed = match value {
        "none" | "-1" => None,
        text => Some(parse(text, "an integer of at least 0, or `none`")?),
    };
    Ok(())
}

fn text(value: &impl Display) -> String {
    value.to_string()
}

fn window(n: usize) -> String {
    if n == usize::MAX { "-1".to_owned() } else { n.to_string() }
}

fn list(items: &[String]) -> String {
    if items.is_empty() {
        "none".to_owned()
    } else {
        items.iter().map(|item| format!("{item:?}")).collect::<Vec<_>>().join(" ")
    }
}

/// Settings given on the command line, in the order of the table.
#[derive(Debug, Clone, Default)]
pub struct SettingArgs {
    values: Vec<(&'static str, String)>,
}

impl SettingArgs {
    /// Applies them.
    ///
    /// # Errors
    /// Says which is wrong, what was found and what was expected.
    pub fn apply(&self, settings: &mut Settings) -> Result<(), String> {
        for (name, value) in &self.values {
            let row = find(name).expect("the flags are made from the table");
            row.assign(settings, value)?;
        }
        Ok(())
    }
}

impl Args for SettingArgs {
    fn augment_args(command: Command) -> Command {
        let flag = |name: &str| name.replace('_', "-");
        SETTINGS.iter().fold(command, |command, row| {
            let aliases = row.aliases.iter().flat_map(|alias| [flag(alias), (*alias).to_owned()]);
            let arg = Arg::new(row.name)
                .long(flag(row.name))
                .aliases(aliases.chain([row.name.to_owned()]).filter(|alias| *alias != flag(row.name)))
                .value_name(row.value)
                .help(row.help)
                .help_heading("Settings of the reply")
                .allow_hyphen_values(true)
                .action(ArgAction::Append);
            command.arg(arg)
        })
    }

    fn augment_args_for_update(command: Command) -> Command {
        SettingArgs::augment_args(command)
    }
}

impl FromArgMatches for SettingArgs {
    fn from_arg_matches(matches: &ArgMatches) -> Result<SettingArgs, clap::Error> {
        let given = |row: &Setting| matches.get_many::<String>(row.name).into_iter().flatten().cloned();
        let values = SETTINGS.iter().flat_map(|row| given(row).map(|value| (row.name, value)).collect::<Vec<_>>());
        Ok(SettingArgs { values: values.collect() })
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = SettingArgs::from_arg_matches(matches)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_setting_reads_what_it_prints() {
        let mut settings = Settings::new(Params::default());
        settings.params.seed = Some(7);
        for row in SETTINGS.iter().filter(|row| !["stop", "logit_bias", "dry_sequence_breaker"].contains(&row.name)) {
            let before = (row.get)(&settings);
            let unchanged = settings.clone();
            row.assign(&mut settings, &before).expect(row.name);
            assert_eq!(settings, unchanged, "{}", row.name);
        }
    }

    #[test]
    fn a_wrong_value_is_named_and_changes_nothing() {
        let rows = [
            ("temperature", "warm", "temperature is `warm`, expected a number"),
            ("temperature", "-1", "`temperature` is -1, expected a number from 0 to 100"),
            ("top_k", "-3", "top_k is `-3`, expected a number"),
            ("max_tokens", "-2", "max_tokens is `-2`, expected an integer, -1 or more"),
            ("mirostat", "3", "mirostat is `3`, expected 0, 1 or 2"),
            ("logit_bias", "x", "logit_bias is `x`, expected TOKEN=X, such as 15043=-1.5 or 2=-inf"),
            ("seed", "abc", "seed is `abc`, expected an integer of at least 0, or `none`"),
        ];
        for (name, value, want) in rows {
            let mut settings = Settings::new(Params::default());
            let before = settings.clone();
            let error = find(name).expect(name).assign(&mut settings, value).expect_err(want);
            assert_eq!(error, want);
            assert_eq!(settings, before);
        }
        assert!(find("num_predict").is_some() && find("nothing").is_none());
    }

    #[test]
    fn lists_grow_and_are_cleared() {
        let mut settings = Settings::new(Params::default());
        let set = |settings: &mut Settings, name: &str, value: &str| {
            find(name).expect(name).assign(settings, value).expect(value);
        };
        set(&mut settings, "stop", "a b");
        set(&mut settings, "stop", "c");
        set(&mut settings, "logit_bias", "2=-inf");
        set(&mut settings, "samplers", "top_k;temperature");
        assert_eq!(settings.stop, ["a b", "c"]);
        assert_eq!(settings.params.logit_bias, [(2, f32::NEG_INFINITY)]);
        assert_eq!(settings.params.order, [Stage::TopK, Stage::Temperature]);
        set(&mut settings, "stop", "none");
        assert!(settings.stop.is_empty());
    }
}
