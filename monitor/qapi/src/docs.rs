//! Documentation: what a definition is for, what each member means, and since when it is there.

use crate::Error;
use crate::expression::Item;

/// A definition's documentation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Docs {
    pub(crate) body: String,
    /// Members, arguments or values.
    pub(crate) members: Vec<(String, String)>,
    pub(crate) features: Vec<(String, String)>,
    pub(crate) returns: String,
    pub(crate) since: String,
}

/// Where the lines being read go.
#[derive(Clone, Copy)]
enum Section {
    Body,
    Member,
    Feature,
    Returns,
    Since,
}

impl Docs {
    /// Reads the documentation of the definition `name`.
    pub(crate) fn of(item: &Item, name: &str) -> Result<Self, Error> {
        let fail = |text: String| Err(Error::at(&item.place, text));
        let mut lines = item.docs.iter();
        if lines.next() != Some(&format!("@{name}:")) {
            return fail(format!("documentation that begins '@{name}:' is missing"));
        }
        let mut docs = Self::default();
        let mut section = Section::Body;
        let mut in_features = false;
        for line in lines {
            let line = line.trim_end();
            let symbol = line
                .strip_prefix('@')
                .and_then(|rest| rest.split_once(':'))
                .filter(|(name, _)| !name.contains(' '));
            let text = if let Some((name, text)) = symbol {
                let (list, next) = match in_features {
                    true => (&mut docs.features, Section::Feature),
                    false => (&mut docs.members, Section::Member),
                };
                list.push((name.into(), String::new()));
                section = next;
                text
            } else if line == "Features:" {
                in_features = true;
                section = Section::Body;
                ""
            } else if let Some(text) = line.strip_prefix("Returns:") {
                section = Section::Returns;
                text
            } else if let Some(text) = line.strip_prefix("Since:") {
                section = Section::Since;
                text
            } else {
                line
            };
            let to = match section {
                Section::Body => &mut docs.body,
                Section::Member => &mut docs.members.last_mut().expect("pushed above").1,
                Section::Feature => &mut docs.features.last_mut().expect("pushed above").1,
                Section::Returns => &mut docs.returns,
                Section::Since => &mut docs.since,
            };
            let text = text.trim();
            if text.is_empty() && to.is_empty() {
                continue;
            }
            if !to.is_empty() {
                to.push(if text.is_empty() { '\n' } else { ' ' });
            }
            to.push_str(text);
        }
        for text in [&mut docs.body, &mut docs.returns, &mut docs.since] {
            *text = text.trim().into();
        }
        for (_, text) in docs.members.iter_mut().chain(&mut docs.features) {
            *text = text.trim().into();
        }
        if docs.body.is_empty() {
            return fail(format!("'{name}' is not described"));
        }
        Ok(docs)
    }

    /// What is said of a member, an argument or a value.
    pub(crate) fn member(&self, name: &str) -> String {
        let found = self.members.iter().find(|(member, _)| member == name);
        found.map(|(_, text)| text.clone()).unwrap_or_default()
    }

    /// Checks that exactly these members and features are described.
    pub(crate) fn check<'n>(
        &self,
        item: &Item,
        members: impl Iterator<Item = &'n str> + Clone,
        features: impl Iterator<Item = &'n str> + Clone,
    ) -> Result<(), Error> {
        fn compare<'n>(
            item: &Item,
            described: &[(String, String)],
            there: impl Iterator<Item = &'n str> + Clone,
        ) -> Result<(), Error> {
            let text = |name: &str| described.iter().find(|(n, _)| n == name);
            for name in there.clone() {
                if text(name).is_none_or(|(_, text)| text.is_empty()) {
                    return Err(Error::at(&item.place, format!("'{name}' is not described")));
                }
            }
            match described
                .iter()
                .find(|(n, _)| there.clone().all(|name| name != n))
            {
                Some((name, _)) => Err(Error::at(
                    &item.place,
                    format!("'{name}' is described, but not there"),
                )),
                None => Ok(()),
            }
        }
        compare(item, &self.members, members)?;
        compare(item, &self.features, features)
    }
}
