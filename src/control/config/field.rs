//! Which key of a file a place belongs to, for those who never see the file.

use toml::de::{DeTable, DeValue};

use super::diagnostic::Place;

/// The key at a place: `service[web].servers[10.0.0.11:8080].weight`. Elements are told by their
/// name or address, else by their number.
pub(in crate::control) fn field_at(text: &str, place: &Place) -> Option<String> {
    let line_start: usize =
        text.split_inclusive('\n').take(place.line.checked_sub(1)?).map(str::len).sum();
    let line = text.get(line_start..)?;
    let column = line.char_indices().nth(place.column.checked_sub(1)?);
    let offset = line_start + column.map_or(0, |(at, _)| at);
    let (table, _) = DeTable::parse_recoverable(text);
    in_table(table.get_ref(), offset, "")
}

fn in_table(table: &DeTable<'_>, offset: usize, path: &str) -> Option<String> {
    table.iter().find_map(|(key, value)| {
        let name = key.get_ref();
        let path = if path.is_empty() { name.to_string() } else { format!("{path}.{name}") };
        let here = key.span().contains(&offset) || value.span().contains(&offset);
        in_value(value.get_ref(), offset, &path).or_else(|| here.then_some(path))
    })
}

fn in_value(value: &DeValue<'_>, offset: usize, path: &str) -> Option<String> {
    match value {
        DeValue::Table(table) => in_table(table, offset, path),
        DeValue::Array(elements) => elements.iter().enumerate().find_map(|(number, element)| {
            let label = ["name", "address"].into_iter().find_map(|key| {
                let value = element.get_ref().as_table()?.get(key)?;
                value.get_ref().as_str().map(str::to_owned)
            });
            let path = format!("{path}[{}]", label.unwrap_or_else(|| number.to_string()));
            let here = element.span().contains(&offset);
            in_value(element.get_ref(), offset, &path).or_else(|| here.then_some(path))
        }),
        DeValue::String(_)
        | DeValue::Integer(_)
        | DeValue::Float(_)
        | DeValue::Boolean(_)
        | DeValue::Datetime(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn field(text: &str, marked: &str) -> Option<String> {
        let offset = text.find(marked).unwrap();
        let before = &text[..offset];
        let line = before.matches('\n').count() + 1;
        let column = before.rsplit('\n').next().unwrap().chars().count() + 1;
        field_at(text, &Place { line, column, width: 1, text: String::new() })
    }

    #[test]
    fn a_place_is_told_by_its_key_and_the_names_of_what_it_is_in() {
        let text = "[director]\nworkers = [1, 2]\n\n[[service]]\nname = \"dns\"\n\
                    [[service]]\nname = \"web\"\nservers = [\n  { address = \"10.0.0.11:80\", \
                    weight = 70000 },\n]\n[interface.outside]\nmtu = 1\n";
        assert_eq!(field(text, "2]").unwrap(), "director.workers[1]");
        assert_eq!(field(text, "70000").unwrap(), "service[web].servers[10.0.0.11:80].weight");
        assert_eq!(field(text, "1\n").unwrap(), "interface.outside.mtu");
    }
}
