//! Variables and keys of the file that nobody reads: each is told, with the setting
//! that was probably meant or what takes its place here.

use super::foreign::{self, ForeignSetting};
use super::reader::{Reader, WORKER};
use super::setting::Setting;
use super::settings::SETTINGS;
use crate::flags::closest_within;

impl Reader<'_> {
    /// Warns of variables and keys that nobody reads.
    pub(super) fn warn_unknown(&mut self) {
        if let Some(unused) = self.unused.clone() {
            self.warn(unused);
        }
        let mut without_effect = Vec::new();
        let known: Vec<String> =
            SETTINGS.iter().flat_map(|setting| setting.variables(WORKER)).collect();
        let env = self.scope.env;
        for (name, value) in env.variables() {
            let bare = name.strip_prefix(WORKER);
            // The oldest deployments have this one without the prefix.
            let Some(bare) = bare.or((name == "EXTERNAL_WASM_RUNTIME").then_some(name)) else {
                continue;
            };
            if value.is_empty() || known.iter().any(|known| known == name) {
                continue;
            }
            let value = value.to_string_lossy();
            self.unknown(name, bare, &value, &known, &mut without_effect);
        }
        if let Some(section) = self.section().cloned() {
            let known: Vec<String> = SETTINGS
                .iter()
                .filter(|setting| setting.in_file())
                .flat_map(Setting::keys)
                .collect();
            for key in section.keys().filter(|key| !known.iter().any(|known| known == key)) {
                let name = format!("`{key}` in section {}", section.place());
                let bare = key.to_ascii_uppercase();
                let value = section.shown(key);
                self.unknown(&name, &bare, &value, &known, &mut without_effect);
            }
        }
        if !without_effect.is_empty() {
            let verb = if without_effect.len() == 1 { "has" } else { "have" };
            self.warn(format!("{} {verb} no effect in this version", without_effect.join(", ")));
        }
    }

    fn unknown(
        &mut self,
        name: &str,
        bare_name: &str,
        value: &str,
        known: &[String],
        without_effect: &mut Vec<String>,
    ) {
        match foreign::find(bare_name) {
            Some(_) if foreign::is_off(value) => {}
            Some(ForeignSetting::Compose) => {}
            Some(ForeignSetting::NoEffect) => without_effect.push(name.to_owned()),
            Some(ForeignSetting::Say(what)) => self.warn(format!("{name} is set: {what}")),
            None => {
                // What all names begin with makes none of them nearer.
                let bare = |name: &str| name.to_ascii_uppercase().replace(WORKER, "");
                let near = known.iter().map(|known| (bare(known), known));
                let near: Vec<_> = near.collect();
                let names = near.iter().map(|(bare, _)| bare.as_str());
                let near = closest_within(&bare(bare_name), names, |length| length / 4)
                    .and_then(|found| near.iter().find(|(bare, _)| bare == found))
                    .map(|(_, near)| format!("; did you mean {near}?"));
                self.warn(format!("{name} is not a setting{}", near.unwrap_or_default()));
            }
        }
    }
}
