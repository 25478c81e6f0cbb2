output "policies" {
  description = "The inline policies of the role, by name."
  value = {
    for name, text in local.listed : name => jsonencode({
      Version   = "2012-10-17"
      Statement = [for statement in jsondecode(text).Statement : statement if !contains(local.policies[name].without, statement.Sid)]
    })
  }
}

output "trust" {
  description = "The trust policy of the role."
  value       = local.trust
}

output "config" {
  description = "The config file, which is the user data as it stands; of a discovery role none."
  value       = local.config
}
